"""The object store protocol: the few operations that everything else is built on."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class StoreError(Exception):
    """The store cannot do what was asked; the message names the store, the key and the cause, for people."""


class StoreUnavailable(StoreError):
    """Not now: no connection, an overloaded server, a time-out. Worth a retry (worker exit code 43)."""


class StoreRefused(StoreError):
    """Not ever without a change by its owner: no such bucket, wrong credentials, read-only, full."""


def too_large(where: str, key: str, size: int, most: int) -> StoreRefused:
    return StoreRefused(
        f"{where}: cannot read {key}: it has {size:,} bytes, and no such object of ours has more than {most:,}; "
        "whoever wrote it has to remove it"
    )


@dataclass(frozen=True)
class ObjectInfo:
    key: str
    size: int
    """Bytes."""
    modified: float
    """Seconds since the epoch."""


class ObjectStore(Protocol):
    """Objects by key below one prefix. Keys use `/`; a key is never a prefix of another.

    Every method raises `StoreUnavailable` or `StoreRefused` besides what it names.
    """

    @property
    def uri(self) -> str:
        """Location to open the same store again: file:///folder or s3://bucket/prefix."""
        ...

    def read(self, key: str, most: int | None = None) -> bytes | None:
        """A small object whole; None if there is none. One of more than `most` bytes is refused."""
        ...

    def download(self, key: str, path: Path) -> bool:
        """Stream an object into the file `path` (replaced only when complete); False if there is none."""
        ...

    def write(self, key: str, data: bytes) -> None:
        """Create or replace a small object; readers see the old or the new one, never a mixture."""
        ...

    def upload(self, path: Path, key: str) -> None:
        """Stream the file `path` into an object, created or replaced as one."""
        ...

    def create(self, key: str, data: bytes) -> bool:
        """Create an object once and for good; False if it exists already. Of racing writers exactly one gets True."""
        ...

    def stat(self, key: str) -> ObjectInfo | None: ...

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Objects whose key starts with `prefix`, in the order of their keys."""
        ...

    def delete(self, key: str) -> None:
        """Remove an object; one that does not exist is no error."""
        ...
