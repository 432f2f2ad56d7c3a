"""Digests of files that are too large to be read twice by one process."""

from pathlib import Path

from evolution.store.artifacts import digest_file

_known: dict[tuple[str, int, int], str] = {}
"""By path, size and time of change."""


def digest_of(path: Path) -> str:
    """SHA-256 of a file; it is read again only if its size or its time of change differs from what they were."""
    stat = path.stat()
    key = (str(path.resolve()), stat.st_size, stat.st_mtime_ns)
    if key not in _known:
        _known[key] = digest_file(path)[0]
    return _known[key]
