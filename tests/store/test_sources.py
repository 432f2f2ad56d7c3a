"""What a run names outside its store reaches this machine, or the reason why not does."""

import io
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from faulty_proxy import FaultyProxy
from minio_server import MinioBucket

from evolution.store.base import StoreRefused, StoreUnavailable
from evolution.store.sources import SourceUnusable, local_copy


def contents(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*") if p.is_file()}


def upload(bucket: MinioBucket, name: str, text: str) -> None:
    bucket.server.client.put_object(bucket.bucket, name, io.BytesIO(text.encode()), len(text.encode()))


@pytest.fixture
def corpus(minio: MinioBucket) -> MinioBucket:
    for name, text in {
        "aiops/a.txt": "A",
        "aiops/deep/b.txt": "B",
        "aiops-eval.jsonl": "{}",
        "aiops2/c.txt": "C",
    }.items():
        upload(minio, name, text)
    return minio


def downloads(proxy: FaultyProxy) -> int:
    """Objects read since the last time; listings are requests as well, one each."""
    count = sum(1 for method, _ in proxy.requests if method == "GET") - 1
    proxy.requests.clear()
    return count


def test_a_local_source_is_used_where_it_lies(tmp_path: Path) -> None:
    folder = tmp_path / "with space & 中文 #1"
    folder.mkdir()
    assert local_copy(folder.as_uri(), tmp_path / "cache") == folder
    assert local_copy(str(folder), tmp_path / "cache") == folder
    assert not (tmp_path / "cache").exists()


def test_a_local_source_that_is_not_there_is_named(tmp_path: Path) -> None:
    uri = (tmp_path / "no-such").as_uri()
    with pytest.raises(SourceUnusable, match=f"{uri}: there is no such file or folder"):
        local_copy(uri, tmp_path)


@pytest.mark.parametrize("uri", ["https://host/x", "", "S3://bucket/x"])
def test_other_schemes_are_refused_with_what_is_supported(tmp_path: Path, uri: str) -> None:
    with pytest.raises(SourceUnusable, match="hf://org/name@commit and pvc://claim/path are supported"):
        local_copy(uri, tmp_path)


def test_two_slashes_instead_of_three_are_explained(tmp_path: Path) -> None:
    with pytest.raises(SourceUnusable, match="three slashes are needed"):
        local_copy("file://documents/a", tmp_path)


@pytest.mark.minio
def test_a_prefix_becomes_a_folder_without_its_neighbours(corpus: MinioBucket, tmp_path: Path) -> None:
    for uri in (f"{corpus.uri}/aiops", f"{corpus.uri}/aiops/"):
        assert contents(local_copy(uri, tmp_path)) == {"a.txt": "A", "deep/b.txt": "B"}
    everything = {"aiops/a.txt", "aiops/deep/b.txt", "aiops-eval.jsonl", "aiops2/c.txt"}
    assert contents(local_copy(corpus.uri, tmp_path)).keys() == everything


@pytest.mark.minio
def test_one_object_becomes_a_file_of_its_name(corpus: MinioBucket, tmp_path: Path) -> None:
    file = local_copy(f"{corpus.uri}/aiops-eval.jsonl", tmp_path)
    assert (file.name, file.read_text()) == ("aiops-eval.jsonl", "{}")


@pytest.mark.minio
def test_only_what_has_changed_is_downloaded_again(corpus: MinioBucket, proxy: FaultyProxy, tmp_path: Path) -> None:
    uri = f"{corpus.uri}/aiops"
    folder = local_copy(uri, tmp_path)
    assert downloads(proxy) == 2
    assert local_copy(uri, tmp_path) == folder
    assert downloads(proxy) == 0
    upload(corpus, "aiops/a.txt", "a")
    upload(corpus, "aiops/new.txt", "N")
    corpus.server.client.remove_object(corpus.bucket, "aiops/deep/b.txt")
    changed = local_copy(uri, tmp_path)
    assert contents(changed) == {"a.txt": "a", "new.txt": "N"}
    assert downloads(proxy) == 2
    assert contents(folder) == {"a.txt": "A", "deep/b.txt": "B"}, "whoever still reads the old one is not disturbed"
    (changed / "a.txt").write_text("cut short by a crash")
    assert contents(local_copy(uri, tmp_path)) == {"a.txt": "a", "new.txt": "N"}
    assert downloads(proxy) == 1


@pytest.mark.minio
def test_an_object_is_downloaded_once_whichever_prefix_names_it(
    corpus: MinioBucket, proxy: FaultyProxy, tmp_path: Path
) -> None:
    local_copy(f"{corpus.uri}/aiops", tmp_path)
    assert downloads(proxy) == 2
    local_copy(corpus.uri, tmp_path)
    assert downloads(proxy) == 2
    assert contents(local_copy(f"{corpus.uri}/aiops/deep/b.txt", tmp_path).parent) == {"b.txt": "B"}
    assert downloads(proxy) == 0


@pytest.mark.minio
def test_two_processes_may_fetch_the_same_source_at_once(corpus: MinioBucket, tmp_path: Path) -> None:
    for number in range(50):
        upload(corpus, f"many/{number}", str(number))
    fetch = (
        "import sys; from pathlib import Path; from evolution.store.sources import local_copy;"
        "local_copy(sys.argv[1], Path(sys.argv[2]))"
    )
    command = [sys.executable, "-c", fetch, f"{corpus.uri}/many", str(tmp_path)]
    assert [process.wait() for process in [subprocess.Popen(command) for _ in range(3)]] == [0, 0, 0]
    assert contents(local_copy(f"{corpus.uri}/many", tmp_path)) == {str(n): str(n) for n in range(50)}


@pytest.mark.minio
def test_a_remote_source_that_is_not_there_is_named(corpus: MinioBucket, tmp_path: Path) -> None:
    for uri in (f"{corpus.uri}/aiop", f"{corpus.uri}/aiops/a"):
        with pytest.raises(SourceUnusable, match=f"{uri}: there is no object of that name, nor one below it"):
            local_copy(uri, tmp_path)
    with pytest.raises(SourceUnusable, match="there is no such bucket"):
        local_copy(f"{corpus.uri}-not/aiops", tmp_path)


@pytest.mark.minio
def test_a_server_that_does_not_answer_or_refuses_is_no_fault_of_the_source(
    corpus: MinioBucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"{corpus.uri}/aiops"
    with monkeypatch.context() as wrong:
        wrong.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
        with pytest.raises(StoreRefused, match="AWS_SECRET_ACCESS_KEY"):
            local_copy(uri, tmp_path)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        monkeypatch.setenv("EVOLUTION_S3_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(StoreUnavailable, match=f"{uri} does not answer"):
            local_copy(uri, tmp_path)
