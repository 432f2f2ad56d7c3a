"""What a run names outside its store, documents, evaluation sets, models, adapters: brought to this machine."""

import os
from contextlib import nullcontext
from pathlib import Path

from evolution.store import claim_source, hub_source, s3_source
from evolution.store.base import StoreRefused
from evolution.store.open import local_path
from evolution.store.source_files import OnProgress, SourceUnusable, Waiting, quiet

__all__ = ["SourceUnusable", "local_copy", "local_source"]


def local_copy(uri: str, cache: Path, progress: OnProgress = quiet, waiting: Waiting = nullcontext) -> Path:
    """The file or folder at `uri` on this machine: itself for file://, paths and pvc://, a copy below `cache` for s3://,
    in the cache of the Hugging Face libraries for hf://. Nobody may write to it.

    A copy is what lies at `uri` now; what has been downloaded already is not downloaded again, by whichever run.
    `waiting` surrounds the time in which another worker of this machine downloads the same.

    Raises:
        SourceUnusable: nothing there, not readable, or a scheme that is not supported.
        StoreUnavailable: the S3 server or the hub does not answer.
        StoreRefused: credentials are not accepted, there are none, or the disk is full or cannot be written.
    """
    try:
        if uri.startswith("s3://"):
            return s3_source.fetch(uri, cache, progress, waiting)
        if uri.startswith("hf://"):
            return hub_source.fetch(uri, cache, progress, waiting)
    except OSError as error:
        raise StoreRefused(
            f"{uri}: cannot be kept in {cache}: {error.strerror or error}; make room there, or name another place for "
            "downloads (EVOLUTION_CACHE; on a cluster the runtime's cache)"
        ) from error
    if uri.startswith("pvc://"):
        return claim_source.mounted(uri)
    return _local(uri)


def local_source(uri: str) -> Path | None:
    """Where a file:// location or a path lies; None for other locations.

    Raises:
        SourceUnusable: nothing there, or not readable.
    """
    return None if "://" in uri and not uri.startswith("file://") else _local(uri)


def _local(uri: str) -> Path:
    try:
        path = local_path(uri)
    except StoreRefused as error:
        raise SourceUnusable(str(error)) from error
    if path is None:
        raise SourceUnusable(
            f"{uri!r} cannot be read here: file:///path, a path, s3://bucket/prefix, hf://org/name@commit and "
            "pvc://claim/path are supported"
        )
    if not path.exists():
        raise SourceUnusable(f"{uri}: there is no such file or folder")
    if not os.access(path, os.R_OK):
        raise SourceUnusable(f"{uri}: not readable for this user")
    return path
