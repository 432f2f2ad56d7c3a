"""Gigabytes come in pieces: several at once, never mixed, and on from where a killed process left them."""

import io
import random
import shutil
import subprocess
import sys
import threading
from contextlib import nullcontext
from pathlib import Path

import pytest
from faulty_proxy import FaultyProxy
from minio_server import MinioBucket

from evolution.store import s3_source
from evolution.store.base import StoreRefused
from evolution.store.source_files import LOOK_AGAIN, turn
from evolution.store.sources import local_copy
from evolution_trainer.timing import Clock, brought_here

pytestmark = pytest.mark.minio
MB = 1 << 20
OLD, NEW = (random.Random(seed).randbytes(5 * MB + 1234) for seed in (1, 2))
FETCH = """
import sys
from pathlib import Path
from evolution.store import s3_source
from evolution.store.sources import local_copy
s3_source.PIECE, s3_source.REQUESTS = 1 << 20, 1
local_copy(sys.argv[1], Path(sys.argv[2]))
"""
HOLD = """
import signal, sys
from contextlib import nullcontext
from pathlib import Path
from evolution.store.source_files import quiet, turn
with turn(Path(sys.argv[2]), sys.argv[1], quiet, nullcontext):
    print("mine", flush=True)
    signal.pause()
"""


def upload(bucket: MinioBucket, data: bytes) -> None:
    bucket.server.client.put_object(bucket.bucket, "model/weights", io.BytesIO(data), len(data))


def ranges(proxy: FaultyProxy) -> list[str]:
    found = sorted(range_ for method, range_ in proxy.requests if method == "GET" and range_)
    proxy.requests.clear()
    return found


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_source, "PIECE", MB)


@pytest.fixture
def model(minio: MinioBucket) -> MinioBucket:
    upload(minio, OLD)
    return minio


def test_a_large_object_comes_in_pieces_and_is_whole(model: MinioBucket, proxy: FaultyProxy, tmp_path: Path) -> None:
    assert (local_copy(f"{model.uri}/model", tmp_path) / "weights").read_bytes() == OLD
    assert [r.partition("=")[2].split("-") for r in ranges(proxy)] == [
        [str(n * MB), str(min((n + 1) * MB, len(OLD)) - 1)] for n in range(6)
    ]
    assert {p.suffix for p in tmp_path.rglob("*") if p.is_file()} == {""}, "nothing partial is left"


def test_a_broken_connection_is_taken_up_where_it_broke(model: MinioBucket, proxy: FaultyProxy, tmp_path: Path) -> None:
    proxy.cut_downloads, proxy.cut_after = 3, 700_000
    assert (local_copy(f"{model.uri}/model", tmp_path) / "weights").read_bytes() == OLD
    assert len(ranges(proxy)) == 6 + 3


def test_an_object_that_is_replaced_meanwhile_is_one_or_the_other(
    model: MinioBucket, proxy: FaultyProxy, tmp_path: Path
) -> None:
    proxy.cut_downloads, proxy.cut_after = 1, 700_000
    proxy.before_cut = lambda: upload(model, NEW)
    assert (local_copy(f"{model.uri}/model", tmp_path) / "weights").read_bytes() == NEW
    assert not [*tmp_path.rglob("*.partial")], "nothing of the other is left"


def test_what_a_killed_process_has_downloaded_is_not_downloaded_again(
    model: MinioBucket, proxy: FaultyProxy, tmp_path: Path
) -> None:
    cuts: list[str] = []
    process = subprocess.Popen([sys.executable, "-c", FETCH, f"{model.uri}/model", str(tmp_path)])

    def kill_in_the_third_piece() -> None:
        cuts.append("one in each")
        if len(cuts) == 3:
            process.kill()
            process.wait()

    proxy.before_cut = kill_in_the_third_piece
    proxy.cut_after, proxy.cut_downloads = 600_000, 3
    assert process.wait(timeout=60) == -9
    ranges(proxy)
    assert (local_copy(f"{model.uri}/model", tmp_path) / "weights").read_bytes() == OLD
    asked = ranges(proxy)
    assert len(asked) == 4
    assert f"bytes={2 * MB}-{3 * MB - 1}" in asked


def test_a_second_worker_says_that_it_waits_and_goes_on_when_the_first_dies(model: MinioBucket, tmp_path: Path) -> None:
    uri = f"{model.uri}/model"
    with subprocess.Popen([sys.executable, "-c", HOLD, uri, str(tmp_path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        notes: list[str] = []

        def told(_phase: str, _done: int, _total: int, note: str = "") -> None:
            notes.append(note)
            holder.kill()

        clock = Clock()
        assert (brought_here(uri, tmp_path, told, clock) / "weights").read_bytes() == OLD
    assert f"waiting for another worker that downloads {uri}" in notes[0]
    timings = clock.timings()
    assert timings.idle >= LOOK_AGAIN
    assert timings.io > 0


def test_who_waited_uses_what_the_other_has_downloaded(model: MinioBucket, proxy: FaultyProxy, tmp_path: Path) -> None:
    uri = f"{model.uri}/model"
    waits = threading.Event()

    def told(_phase: str, _done: int, _total: int, note: str = "") -> None:
        if "waiting" in note:
            waits.set()

    both = [threading.Thread(target=local_copy, args=(uri, tmp_path, told)) for _ in range(2)]
    with turn(tmp_path, uri, told, nullcontext):
        for thread in both:
            thread.start()
        assert waits.wait(30)
    for thread in both:
        thread.join()
    assert len(ranges(proxy)) == 6


def test_people_see_how_far_a_download_is(model: MinioBucket, tmp_path: Path) -> None:
    said: list[tuple[str, int, int, str]] = []
    local_copy(f"{model.uri}/model", tmp_path, lambda *told: said.append(told))
    assert said[-1] == ("MB downloaded", 6, 6, "1 of 1 files")


def test_a_disk_without_room_is_told_before_anything_is_downloaded(
    model: MinioBucket, proxy: FaultyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2_000_000))
    with pytest.raises(StoreRefused, match=r"6 MB are to be downloaded .* 2 MB are free; make room"):
        local_copy(f"{model.uri}/model", tmp_path)
    assert ranges(proxy) == []


def test_a_cache_that_cannot_be_written_is_told(model: MinioBucket, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file, where a folder should be")
    with pytest.raises(StoreRefused, match=r"cannot be kept in .*cache.*make room there.*EVOLUTION_CACHE"):
        local_copy(f"{model.uri}/model", tmp_path / "cache")
