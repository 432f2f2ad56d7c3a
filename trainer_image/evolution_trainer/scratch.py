"""Folders for files that only one stage of one worker needs."""

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Scratch:
    """Scratch folders of this process, below a cache folder that workers share; one at a time."""

    def __init__(self, cache: Path) -> None:
        self._folder = cache / "scratch"
        self._current: Path | None = None

    @contextmanager
    def folder(self, name: str) -> Iterator[Path]:
        """An empty folder, removed afterwards; those of workers that were killed are removed before."""
        self._folder.mkdir(parents=True, exist_ok=True)
        _remove_those_of_the_dead(self._folder)
        self._current = self._folder / f"{socket.gethostname()}-{os.getpid()}-{name[:8]}"
        shutil.rmtree(self._current, ignore_errors=True)
        self._current.mkdir()
        try:
            yield self._current
        finally:
            self.remove()

    def remove(self) -> None:
        if self._current is not None:
            shutil.rmtree(self._current, ignore_errors=True)
            self._current = None


def _remove_those_of_the_dead(folder: Path) -> None:
    host = socket.gethostname()
    for scratch in folder.glob(f"{host}-*-*"):
        pid = scratch.name.removeprefix(f"{host}-").partition("-")[0]
        if pid.isdigit() and not _alive(int(pid)):
            shutil.rmtree(scratch, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
