"""A store in a local folder: one file per object, the key is its path.

A file is written aside under `.partial/`, flushed to disk, and only then given its name: by `rename` where it may
replace, by a hard link where it must not. So a reader, also one after a crash, sees whole objects only.
"""

import contextlib
import errno
import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from evolution.store.base import ObjectInfo, StoreError, StoreRefused, StoreUnavailable, too_large

PARTIAL = ".partial"
"""Folder, at the top of the store, of files being written; what a crash leaves there is never listed."""

_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NOT_NOW = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EBUSY, errno.EMFILE, errno.ENFILE}


class FolderStore:
    """`ObjectStore` in a folder, made at the first write."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()

    @property
    def uri(self) -> str:
        return self._folder.as_uri()

    def path(self, key: str) -> Path:
        """The file of an object, whether there is one or not.

        Raises:
            ValueError: a key that would leave the folder or meet the files being written.
        """
        parts = key.split("/")
        if any(part in {"", ".", ".."} or "\0" in part for part in parts) or parts[0] == PARTIAL:
            raise ValueError(f"{key!r} is not a key: parts between / are needed, none of them empty, . or ..")
        return self._folder.joinpath(*parts)

    def read(self, key: str, most: int | None = None) -> bytes | None:
        with self._errors("read", key):
            try:
                with self.path(key).open("rb") as file:
                    size = os.fstat(file.fileno()).st_size
                    if most is not None and size > most:
                        raise too_large(f"the store {self.uri}", key, size, most)
                    return file.read()
            except FileNotFoundError:
                return None

    def open(self, key: str) -> BufferedReader | None:
        """An object to read from in pieces; None if there is none."""
        with self._errors("read", key):
            try:
                return self.path(key).open("rb")
            except FileNotFoundError:
                return None

    def download(self, key: str, path: Path) -> bool:
        source = self.open(key)
        if source is None:
            return False
        partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
        try:
            with source, partial.open("wb") as file:
                shutil.copyfileobj(source, file, 1 << 20)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        return True

    def write(self, key: str, data: bytes) -> None:
        target = self.path(key)
        with self._errors("write", key), self._partial(lambda file: file.write(data)) as partial:
            _named(partial.replace, target)

    def upload(self, path: Path, key: str) -> None:
        target = self.path(key)
        with (
            path.open("rb") as source,
            self._errors("write", key),
            self._partial(lambda file: shutil.copyfileobj(source, file, 1 << 20)) as partial,
        ):
            _named(partial.replace, target)

    def create(self, key: str, data: bytes) -> bool:
        target = self.path(key)
        with self._errors("write", key):
            if target.exists():
                return False
            with self._partial(lambda file: file.write(data)) as partial:
                try:
                    _named(lambda target: os.link(partial, target), target)
                except FileExistsError:
                    return False
                except OSError as error:
                    if error.errno not in _NO_HARD_LINKS:
                        raise
                    return self._create_without_links(partial, target)
                return True

    def stat(self, key: str) -> ObjectInfo | None:
        with self._errors("read", key):
            try:
                stat = self.path(key).stat()
            except FileNotFoundError:
                return None
            return ObjectInfo(key, stat.st_size, stat.st_mtime)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        with self._errors("list", prefix):
            yield from self._list(self._folder, "", prefix)

    def delete(self, key: str) -> None:
        with self._errors("write", key):
            self.path(key).unlink(missing_ok=True)

    def remove_partial(self, older_than: float) -> int:
        """Remove files that a crash left half-written, if last touched `older_than` seconds ago; how many."""
        removed = 0
        with self._errors("write", PARTIAL):
            for file in self._entries(self._folder / PARTIAL):
                with contextlib.suppress(FileNotFoundError):
                    if file.name != "lock" and time.time() - file.stat().st_mtime >= older_than:
                        Path(file.path).unlink()
                        removed += 1
        return removed

    @contextlib.contextmanager
    def _partial(self, fill: Callable[[BinaryIO], object]) -> Iterator[Path]:
        partial = self._folder / PARTIAL / uuid.uuid4().hex
        partial.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("xb") as file:
                fill(file)
                file.flush()
                os.fsync(file.fileno())
            yield partial
        finally:
            partial.unlink(missing_ok=True)

    def _create_without_links(self, partial: Path, target: Path) -> bool:
        # O_EXCL on the target would be exclusive as well, but a crash would leave half an object under its name.
        with (self._folder / PARTIAL / "lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if target.exists():
                return False
            _named(partial.replace, target)
            return True

    def _list(self, folder: Path, parent: str, prefix: str) -> Iterator[ObjectInfo]:
        # Sorted with its slash a folder takes its place among the keys: a-b, a/b, a0.
        names = {f"{parent}{e.name}/" if e.is_dir() else f"{parent}{e.name}": e for e in self._entries(folder)}
        for name in sorted(names):
            if name == f"{PARTIAL}/":
                continue
            if not name.endswith("/"):
                if name.startswith(prefix):
                    with contextlib.suppress(FileNotFoundError):
                        stat = names[name].stat()
                        yield ObjectInfo(name, stat.st_size, stat.st_mtime)
            elif name.startswith(prefix) or prefix.startswith(name):
                yield from self._list(folder / names[name].name, name, prefix)

    def _entries(self, folder: Path) -> tuple[os.DirEntry[str], ...]:
        try:
            with os.scandir(folder) as entries:
                return tuple(entries)
        except FileNotFoundError:
            return ()

    @contextlib.contextmanager
    def _errors(self, verb: str, key: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._error(error, verb, key) from error

    def _error(self, error: OSError, verb: str, key: str) -> StoreError:
        failed = f"cannot {verb} {key}"
        cause = error.strerror or str(error)
        if error.errno in _READ_ONLY and verb == "write":
            return StoreRefused(f"the store {self.uri} is read-only: {failed} ({cause})")
        if error.errno in _FULL:
            return StoreRefused(f"the store {self.uri} is full: {failed} ({cause})")
        if error.errno == errno.ENOTDIR:
            return StoreRefused(f"the store {self.uri} is not a folder: {failed} ({cause}: {error.filename})")
        if error.errno in _NOT_NOW:
            return StoreUnavailable(f"the store {self.uri} does not answer: {failed} ({cause})")
        return StoreRefused(f"the store {self.uri}: {failed} ({cause}: {error.filename})")


def _named(give_name: Callable[[Path], object], target: Path) -> None:
    try:
        give_name(target)
    except FileNotFoundError:
        target.parent.mkdir(parents=True, exist_ok=True)
        give_name(target)
