"""What is particular to a store in a folder."""

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from evolution.store.base import StoreRefused
from evolution.store.folder import PARTIAL, FolderStore

Mount = Callable[[str], Path]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mounts a file system in memory, or says why it cannot."""
    folder = tmp_path / "mounted"
    folder.mkdir()

    def mount(options: str) -> Path:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            pytest.skip(f"needs the right to mount a file system: {done.stderr.strip()}")
        return folder

    yield mount
    subprocess.run(["umount", str(folder)], capture_output=True, check=False)


@pytest.fixture
def read_only(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FolderStore]:
    """A store with one object that nobody can write to; permissions do not stop root, a mount does."""
    if os.geteuid() == 0:
        mount: Mount = request.getfixturevalue("mount")
        folder = mount("size=1m")
        FolderStore(folder).write("stages/a", b"kept")
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        yield FolderStore(folder)
    else:
        folder = tmp_path / "read-only"
        FolderStore(folder).write("stages/a", b"kept")
        folders = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
        for path in folders:
            path.chmod(0o555)
        yield FolderStore(folder)
        for path in folders:
            path.chmod(0o755)


def test_a_read_only_store_is_read_and_refuses_writes_by_name(read_only: FolderStore, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x")
    assert read_only.read("stages/a") == b"kept"
    assert not read_only.create("stages/a", b"x")
    expected = f"the store {read_only.uri} is read-only: cannot write stages/"
    with pytest.raises(StoreRefused, match=expected):
        read_only.create("stages/b", b"x")
    with pytest.raises(StoreRefused, match=expected):
        read_only.write("stages/a", b"x")
    with pytest.raises(StoreRefused, match=expected):
        read_only.upload(file, "stages/b")
    with pytest.raises(StoreRefused, match=expected):
        read_only.delete("stages/a")
    assert [found.key for found in read_only.list("")] == ["stages/a"]


def test_a_full_disk_is_told_and_leaves_nothing_behind(mount: Mount, tmp_path: Path) -> None:
    store = FolderStore(mount("size=1m"))
    large = tmp_path / "large"
    large.write_bytes(bytes(2 << 20))
    with pytest.raises(StoreRefused, match=f"the store {store.uri} is full: cannot write blobs/large"):
        store.upload(large, "blobs/large")
    with pytest.raises(StoreRefused, match="is full"):
        store.create("stages/large", bytes(2 << 20))
    assert list(store.list("")) == []
    store.write("small", bytes(500 << 10))
    assert [found.key for found in store.list("")] == ["small"]


def test_a_file_in_place_of_the_store_is_told(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("not a folder")
    store = FolderStore(tmp_path / "store")
    for action in (
        lambda: store.write("a/b", b""),
        lambda: store.create("a/b", b""),
        lambda: store.read("a/b"),
        lambda: store.stat("a/b"),
        lambda: list(store.list("")),
    ):
        with pytest.raises(StoreRefused, match=f"the store {store.uri} is not a folder"):
            action()
    assert (tmp_path / "store").read_text() == "not a folder"


def test_looking_into_a_store_does_not_make_it(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    assert store.read("a") is None
    assert list(store.list("")) == []
    store.delete("a")
    assert not (tmp_path / "store").exists()


def test_what_a_crash_left_half_written_is_not_listed_and_is_removed_when_old(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.write("a", b"x")
    left = tmp_path / PARTIAL / "0123"
    left.write_bytes(b"half")
    assert [found.key for found in store.list("")] == ["a"]
    assert store.remove_partial(older_than=3600) == 0
    os.utime(left, (0, 0))
    assert store.remove_partial(older_than=3600) == 1
    assert [*(tmp_path / PARTIAL).iterdir()] == []
    assert store.read("a") == b"x"


def test_where_hard_links_are_not_supported_an_object_is_still_created_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "Operation not permitted", str(source), None, str(target))

    monkeypatch.setattr(os, "link", refuse)
    with ThreadPoolExecutor(32) as writers:
        for round_ in range(50):
            won = [*writers.map(lambda n: FolderStore(tmp_path).create(f"race/{round_}", b"%d" % n), range(32))]  # noqa: B023
            assert won.count(True) == 1
            assert FolderStore(tmp_path).read(f"race/{round_}") == b"%d" % won.index(True)


@pytest.mark.parametrize("key", ["", "/etc/passwd", "../outside", "a//b", "a/./b", "a/", f"{PARTIAL}/x", "a\0b"])
def test_a_key_cannot_leave_the_folder(tmp_path: Path, key: str) -> None:
    store = FolderStore(tmp_path / "store")
    for action in (lambda: store.write(key, b"x"), lambda: store.read(key), lambda: store.delete(key)):
        with pytest.raises(ValueError, match="is not a key"):
            action()
    assert [*tmp_path.iterdir()] == []


def test_others_may_read_what_is_stored_as_the_umask_allows(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        FolderStore(tmp_path).create("a", b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644
