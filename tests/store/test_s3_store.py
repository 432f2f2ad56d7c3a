"""What is particular to a store on S3: a real server, and faults on the way to it."""

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from faulty_proxy import FaultyProxy
from minio_server import MinioBucket

from evolution.store.base import StoreRefused, StoreUnavailable
from evolution.store.s3 import S3Store

pytestmark = pytest.mark.minio

MEBIBYTE = 1 << 20


@pytest.fixture
def nobody_listens() -> Iterator[str]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@pytest.mark.slow
def test_a_server_that_cannot_be_reached_is_unavailable_within_seconds(
    minio: MinioBucket, nobody_listens: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EVOLUTION_S3_ENDPOINT", nobody_listens)
    store = S3Store(minio.bucket, "team-a")
    for action in (
        lambda: store.read("a"),
        lambda: store.create("a", b""),
        lambda: store.write("a", b""),
        lambda: store.download("a", tmp_path / "a"),
        lambda: list(store.list("")),
    ):
        started = time.monotonic()
        with pytest.raises(StoreUnavailable, match=f"the store {store.uri} does not answer at http:.*: cannot"):
            action()
        assert time.monotonic() - started < 10


def test_a_bucket_that_does_not_exist_is_refused(minio: MinioBucket) -> None:
    store = S3Store(f"{minio.bucket}-not", "team-a")
    for action in (
        lambda: store.read("a"),
        lambda: store.create("a", b""),
        lambda: store.write("a", b""),
        lambda: list(store.list("")),
    ):
        with pytest.raises(StoreRefused, match="there is no such bucket"):
            action()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("AWS_ACCESS_KEY_ID", "the server does not know the AWS_ACCESS_KEY_ID"),
        ("AWS_SECRET_ACCESS_KEY", "the AWS_SECRET_ACCESS_KEY is not the one that belongs to the AWS_ACCESS_KEY_ID"),
    ],
)
def test_wrong_credentials_are_refused_by_name_and_not_repeated(
    minio: MinioBucket, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    monkeypatch.setenv(name, "some-secret-of-mine")
    store = S3Store(minio.bucket)
    for action in (lambda: store.read("a"), lambda: store.write("a", b""), lambda: store.create("a", b"")):
        with pytest.raises(StoreRefused, match=message) as refused:
            action()
        assert "some-secret-of-mine" not in str(refused.value)
    with pytest.raises(StoreRefused):
        store.stat("a")


def test_missing_credentials_are_named(minio: MinioBucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StoreRefused, match=f"{minio.uri} needs credentials: AWS_SECRET_ACCESS_KEY not set"):
        S3Store(minio.bucket)


@pytest.mark.parametrize("endpoint", ["127.0.0.1:9000", "ftp://host", "http://", "http://host/path"])
def test_an_endpoint_that_is_none_is_refused(
    minio: MinioBucket, monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    monkeypatch.setenv("EVOLUTION_S3_ENDPOINT", endpoint)
    with pytest.raises(StoreRefused, match="http://host:port or https://host is expected"):
        S3Store(minio.bucket)


def test_credentials_in_the_endpoint_are_refused_and_not_repeated(
    minio: MinioBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVOLUTION_S3_ENDPOINT", "http://me:secret@127.0.0.1:9000")
    with pytest.raises(StoreRefused, match="give them as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY") as refused:
        S3Store(minio.bucket)
    assert "me:secret" not in str(refused.value)


def test_the_region_is_asked_from_the_server_where_it_is_not_given(
    minio: MinioBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_REGION")
    store = S3Store(minio.bucket)
    assert store.create("a", b"x")
    assert store.read("a") == b"x"


def test_the_server_is_found_to_honour_conditional_writes_and_the_probe_leaves_no_trace(minio: MinioBucket) -> None:
    store = S3Store(minio.bucket, "team-a")
    assert store.probe() == "Honoured"
    assert list(store.list("")) == []


def test_a_server_that_ignores_conditions_is_noticed_and_objects_are_still_created_once(
    minio: MinioBucket, proxy: FaultyProxy
) -> None:
    proxy.ignores_conditions = True
    store = S3Store(minio.bucket, "team-a")
    assert store.probe() == "Ignored"
    assert store.create("stages/a", b"first")
    assert not store.create("stages/a", b"second")
    assert store.read("stages/a") == b"first"


def test_an_overloaded_server_is_tried_again(minio: MinioBucket, proxy: FaultyProxy) -> None:
    store = S3Store(minio.bucket)
    assert store.probe() == "Honoured"
    proxy.overloaded = 2
    store.write("a", b"x")
    proxy.overloaded = 2
    assert store.create("b", b"x")
    proxy.overloaded = 2
    assert store.read("a") == b"x"
    assert proxy.overloaded == 0


@pytest.mark.slow
def test_a_server_that_stays_overloaded_is_unavailable(minio: MinioBucket, proxy: FaultyProxy) -> None:
    store = S3Store(minio.bucket)
    store.create("a", b"")
    proxy.overloaded = 1_000
    for action in (lambda: store.read("a"), lambda: store.write("a", b""), lambda: store.create("b", b"")):
        with pytest.raises(StoreUnavailable, match=r"is overloaded or not ready: .* \(SlowDown\)"):
            action()


def test_who_created_an_object_is_told_so_although_the_answer_was_lost(minio: MinioBucket, proxy: FaultyProxy) -> None:
    store = S3Store(minio.bucket)
    store.probe()
    assert store.create("before", b"")
    proxy.lost_answers = 1
    assert store.create("a", b"mine")
    assert proxy.lost_answers == 0
    proxy.lost_answers = 1
    assert not store.create("a", b"another's")
    assert store.read("a") == b"mine"


def test_a_download_that_breaks_off_goes_on_where_it_broke(
    minio: MinioBucket, proxy: FaultyProxy, tmp_path: Path
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(os.urandom(9 * MEBIBYTE))
    store = S3Store(minio.bucket)
    store.upload(source, "a")
    proxy.cut_after, proxy.cut_downloads = 4 * MEBIBYTE, 2
    proxy.requests.clear()
    assert store.download("a", target)
    assert target.read_bytes() == source.read_bytes()
    ranges = [range_ for method, range_ in proxy.requests if method == "GET"]
    assert ranges == ["", f"bytes={4 * MEBIBYTE}-", f"bytes={8 * MEBIBYTE}-"]


def test_an_object_that_is_replaced_during_a_broken_download_is_read_from_its_start(
    minio: MinioBucket, proxy: FaultyProxy, tmp_path: Path
) -> None:
    old, new = b"o" * (3 * MEBIBYTE), b"n" * (3 * MEBIBYTE)
    store = S3Store(minio.bucket)
    store.write("a", old)
    proxy.cut_after, proxy.cut_downloads = MEBIBYTE, 1
    proxy.before_cut = lambda: store.write("a", new)
    assert store.download("a", tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == new


def test_a_download_that_keeps_breaking_off_is_unavailable_and_leaves_the_file_alone(
    minio: MinioBucket, proxy: FaultyProxy, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"before")
    store = S3Store(minio.bucket)
    store.write("a", bytes(9 * MEBIBYTE))
    proxy.cut_after, proxy.cut_downloads = MEBIBYTE, 1_000
    with pytest.raises(StoreUnavailable, match="cannot read a"):
        store.download("a", target)
    assert target.read_bytes() == b"before"
    assert [*tmp_path.iterdir()] == [target]


def test_a_server_without_trusted_tls_is_refused(minio: MinioBucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVOLUTION_S3_ENDPOINT", minio.server.endpoint.replace("http://", "https://"))
    with pytest.raises(StoreRefused, match="no trusted TLS connection"):
        S3Store(minio.bucket).read("a")
