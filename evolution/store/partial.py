"""A file that is written piece by piece, in any order, and goes on where a process that was killed left it."""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


class PartialFile:
    """`path` of `size` bytes, which comes into being when its last piece of `piece` bytes was written.

    Until then its bytes lie beside it, under a name with `writer` in it, and with a journal of the pieces that are on
    the disk. Pieces may be written by several threads at once.
    """

    def __init__(self, path: Path, size: int, piece: int, writer: str) -> None:
        self._path, self._size, self._piece = path, size, piece
        self._partial = path.with_name(f"{path.name}.{writer}.partial")
        self._journal = path.with_name(f"{path.name}.{writer}.pieces")
        self._lock = threading.Lock()
        count = max(1, -(-size // piece))
        self._several = count > 1
        # Of several pieces the file is opened before the journal is read, and stays open: where locks do not work (some
        # network file systems), another process may finish it meanwhile, and the journal then speaks of that one.
        self._open: int | None = self._opened() if self._several else None
        there = _numbers(self._journal) if self._several else set()
        self.missing = [number for number in range(count) if number not in there]
        self._left = set(self.missing)
        self.bytes_there = size - sum(self.span(number)[1] for number in self.missing)

    @property
    def finished(self) -> bool:
        return not self._left

    def span(self, piece: int) -> tuple[int, int]:
        """Start and length of a piece, in bytes."""
        start = piece * self._piece
        return start, min(self._piece, self._size - start)

    @contextmanager
    def writer(self, piece: int) -> Iterator[Callable[[bytes], None]]:
        """What takes the bytes of a piece in their order; the piece counts if the block ends well.

        Raises:
            OSError: the disk is full or does not work.
        """
        at, _ = self.span(piece)
        file = self._opened() if self._open is None else self._open

        def write(data: bytes) -> None:
            nonlocal at
            left = memoryview(data)
            while left:
                written = os.pwrite(file, left, at)
                at, left = at + written, left[written:]

        try:
            yield write
            if self._several:
                os.fsync(file)
        finally:
            if self._open is None:
                os.close(file)
        with self._lock:
            self._left.discard(piece)
            if self._left:
                with self._journal.open("a") as journal:
                    journal.write(f"{piece}\n")
            else:
                self._finish()

    def close(self) -> None:
        if self._open is not None:
            os.close(self._open)
            self._open = None

    def _opened(self) -> int:
        self._partial.parent.mkdir(parents=True, exist_ok=True)
        return os.open(self._partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def _finish(self) -> None:
        self._journal.unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):  # finished by another process already
            self._partial.replace(self._path)


def _numbers(journal: Path) -> set[int]:
    """The pieces that it names; a line cut short by a crash is as good as none."""
    try:
        lines = journal.read_text().splitlines(keepends=True)
    except FileNotFoundError:
        return set()
    return {int(line) for line in lines if line.endswith("\n") and line.strip().isdigit()}
