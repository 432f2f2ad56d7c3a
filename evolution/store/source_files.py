"""What it takes to bring the files of a source to this machine, wherever the source lies."""

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from evolution.plan.stage import canonical_json
from evolution.store.base import StoreRefused

PHASE = "MB downloaded"
LOOK_AGAIN = 0.5
"""Seconds between two looks at who is at work, and at how far a download is."""


class SourceUnusable(Exception):
    """A location that a run names is not there or cannot be read; the message is for people."""


class OnProgress(Protocol):
    def __call__(self, phase: str, done: int, total: int, note: str = "") -> None:
        """`done` of `total` (0: unknown) of what `phase` names in the plural."""


Waiting = Callable[[], AbstractContextManager[None]]
"""Around the time in which somebody else is waited for."""


def quiet(phase: str, done: int, total: int, note: str = "") -> None:
    """Tells nobody."""


def megabytes(size: int) -> int:
    return -(-size // 1_000_000)


@contextmanager
def turn(cache: Path, uri: str, progress: OnProgress, waiting: Waiting) -> Iterator[None]:
    """Hold the lock of this machine on downloads of `uri`; whoever waits for it keeps saying so, within `waiting`.

    The kernel gives the lock of a process that dies to the next.
    """
    lock = cache / "sources" / "locks" / hashlib.sha256(uri.encode()).hexdigest()[:32]
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("ab") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                progress(PHASE, 0, 0, f"waiting for another worker that downloads {uri} on this machine")
                with waiting():
                    time.sleep(LOOK_AGAIN)
        yield


def linked(cache: Path, files: Mapping[str, Path]) -> Path:
    """A folder of links by name, of any depth, to files elsewhere. The same names and files always have one folder,
    which holds nothing else and never changes, so that others may read in it meanwhile.
    """
    listing = canonical_json({name: str(file.resolve()) for name, file in files.items()})
    folder = cache / "sources" / "folders" / hashlib.sha256(listing).hexdigest()[:32]
    for name, file in files.items():
        link = folder / name
        target = os.path.relpath(file.resolve(), link.parent)
        if link.is_symlink() and str(link.readlink()) == target:
            continue
        link.parent.mkdir(parents=True, exist_ok=True)
        fresh = link.with_name(f".{os.getpid()}-{link.name[:200]}")
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(target)
        fresh.replace(link)
    return folder


def see_that_it_fits(folder: Path, size: int, uri: str) -> None:
    """Raises:
    StoreRefused: the disk of `folder` has no room for `size` bytes.
    """
    free = shutil.disk_usage(folder).free
    if size > free:
        raise StoreRefused(
            f"{uri}: {megabytes(size):,} MB are to be downloaded to {folder}, where {megabytes(free):,} MB are free; "
            "make room, or name another place for downloads (EVOLUTION_CACHE; on a cluster the runtime's cache)"
        )
