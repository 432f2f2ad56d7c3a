"""What every store must do; the same tests run against a folder and a real MinIO server."""

import filecmp
import os
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

import pytest

from evolution.store.base import ObjectStore, StoreRefused
from evolution.store.open import open_store
from evolution.store.probe import race

MEBIBYTE = 1 << 20


def test_what_is_written_is_read(store: ObjectStore) -> None:
    store.write("runs/a/history.json", b"one")
    assert store.read("runs/a/history.json") == b"one"
    store.write("runs/a/history.json", b"two, longer")
    assert store.read("runs/a/history.json") == b"two, longer"
    store.write("runs/a/history.json", b"")
    assert store.read("runs/a/history.json") == b""


def test_a_file_that_is_uploaded_can_be_downloaded(store: ObjectStore, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(os.urandom(3 * MEBIBYTE + 17))
    target.write_bytes(b"what was there before")
    store.upload(source, "blobs/large")
    assert store.download("blobs/large", target)
    assert target.read_bytes() == source.read_bytes()
    source.write_bytes(b"")
    store.upload(source, "blobs/large")
    assert store.download("blobs/large", target)
    assert target.read_bytes() == b""


def test_what_is_not_there_is_told_without_an_error(store: ObjectStore, tmp_path: Path) -> None:
    assert store.read("no/such") is None
    assert store.stat("no/such") is None
    assert not store.download("no/such", tmp_path / "target")
    assert list(store.list("no/")) == []
    assert list(store.list("")) == []
    store.delete("no/such")
    assert [*tmp_path.glob("target*")] == []


def test_a_deleted_object_is_gone(store: ObjectStore) -> None:
    store.write("a/b", b"x")
    store.delete("a/b")
    assert store.read("a/b") is None
    assert list(store.list("")) == []
    assert store.create("a/b", b"y")


def test_size_and_time_of_an_object_are_known(store: ObjectStore) -> None:
    store.write("a/b", b"12345")
    found = store.stat("a/b")
    assert found is not None
    assert (found.key, found.size) == ("a/b", 5)
    store.write("a/c", b"")
    later = store.stat("a/c")
    assert later is not None
    assert 0 <= later.modified - found.modified < 60
    assert [(o.key, o.size) for o in store.list("a/")] == [("a/b", 5), ("a/c", 0)]


def test_objects_are_listed_in_the_order_of_their_keys(store: ObjectStore) -> None:
    keys = ["a-b", "a.b", "a/b", "a/b-", "a/b0/c", "a0", "ab/c", "b/é", "b/z", "b/中"]
    for key in reversed(keys):
        store.write(key, b"")
    assert [found.key for found in store.list("")] == sorted(keys)
    assert [found.key for found in store.list("a")] == sorted(k for k in keys if k.startswith("a"))
    assert [found.key for found in store.list("a/b")] == ["a/b", "a/b-", "a/b0/c"]
    assert [found.key for found in store.list("a/b0/")] == ["a/b0/c"]


def test_more_objects_than_a_page_holds_are_all_listed(store: ObjectStore) -> None:
    for number in range(1005):
        store.write(f"many/{number:04}", b"")
    assert [found.key for found in store.list("many/")] == [f"many/{number:04}" for number in range(1005)]


def test_namespaces_do_not_see_each_other(store: ObjectStore) -> None:
    store.write("stages/a", b"of team-a")
    for other in ("team-b", "team"):
        neighbour = open_store(store.uri.removesuffix("team-a") + other)
        assert neighbour.read("stages/a") is None
        assert list(neighbour.list("")) == []
        neighbour.write("stages/b", b"")
    assert [found.key for found in store.list("")] == ["stages/a"]


def test_a_store_is_found_again_by_its_uri(store: ObjectStore) -> None:
    store.write("a", b"x")
    assert open_store(store.uri).read("a") == b"x"
    assert open_store(store.uri).uri == store.uri


def test_an_object_is_created_once(store: ObjectStore) -> None:
    assert store.create("stages/a", b"first")
    assert not store.create("stages/a", b"second")
    assert store.read("stages/a") == b"first"
    assert [found.key for found in store.list("")] == ["stages/a"]


@pytest.mark.parametrize("how", ["write", "upload"])
def test_readers_never_see_a_mixture_while_an_object_is_replaced(store: ObjectStore, tmp_path: Path, how: str) -> None:
    versions = [bytes([65 + n]) * (300_000 + n) for n in range(2)]
    files = [tmp_path / str(n) for n in range(2)]
    for file, version in zip(files, versions, strict=True):
        file.write_bytes(version)
    store.write("object", versions[0])
    written = threading.Event()

    def replace() -> None:
        for n in range(100):
            if how == "write":
                store.write("object", versions[n % 2])
            else:
                store.upload(files[n % 2], "object")
        written.set()

    writer = threading.Thread(target=replace)
    writer.start()
    seen: set[bytes | None] = set()
    while not written.is_set():
        seen.add(store.read("object"))
        store.download("object", tmp_path / "copy")
        seen.add((tmp_path / "copy").read_bytes())
    writer.join()
    assert seen == set(versions)


def test_of_32_racing_writers_exactly_one_wins_in_each_of_50_rounds(store: ObjectStore) -> None:
    won = race(store.uri, "race/", writers=32, rounds=50)
    assert [len(winners) for winners in won] == [1] * 50
    assert [store.read(f"race/{round_}") for round_ in range(50)] == [winners[0] for winners in won]


UPLOAD_FOREVER = """
import sys
from pathlib import Path
from evolution.store.open import open_store
store, n = open_store(sys.argv[1]), 0
while True:
    print(n, flush=True)
    store.upload(Path(sys.argv[2]), f"blobs/{n}")
    n += 1
"""


def test_a_writer_that_is_killed_leaves_no_half_object(store: ObjectStore, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(20 * MEBIBYTE))
    for objects in range(4):
        with subprocess.Popen(
            [sys.executable, "-c", UPLOAD_FOREVER, store.uri, str(source)], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            while int(writer.stdout.readline()) < objects:
                pass
            writer.kill()
        listed = list(store.list(""))
        assert len(listed) >= objects
        assert {found.size for found in listed} <= {20 * MEBIBYTE}
        assert store.read(f"blobs/{objects}") in (None, source.read_bytes())


def test_memory_stays_flat_while_large_objects_move(store: ObjectStore, tmp_path: Path) -> None:
    large, copy = tmp_path / "large", tmp_path / "copy"
    large.write_bytes(os.urandom(MEBIBYTE) * 64)
    tracemalloc.start()
    try:
        store.upload(large, "large")
        uploading = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        store.download("large", copy)
        downloading = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert filecmp.cmp(copy, large, shallow=False)
    assert uploading < 56 * MEBIBYTE
    assert downloading < 8 * MEBIBYTE


def test_an_object_that_is_larger_than_it_can_be_is_refused_unread(store: ObjectStore) -> None:
    store.write("runs/a/history.json", b"x" * 1000)
    assert store.read("runs/a/history.json", 1000) == b"x" * 1000
    with pytest.raises(StoreRefused, match=r"cannot read runs/a/history.json: it has 1,000 bytes, and .* than 999;"):
        store.read("runs/a/history.json", 999)
    assert store.read("none", 1) is None
