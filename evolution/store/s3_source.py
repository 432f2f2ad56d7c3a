"""A file or folder in a bucket: its objects are downloaded once to this machine, whichever runs and prefixes name them.

An object lies below `objects/` by bucket, key, ETag and size: one that was replaced lies beside its successor.
"""

import hashlib
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, CancelledError, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import urllib3
from minio import Minio
from minio.error import MinioException, S3Error

from evolution.plan.stage import canonical_json
from evolution.store import s3
from evolution.store.open import bucket_and_prefix
from evolution.store.partial import PartialFile
from evolution.store.s3_download import ObjectChanged, read_range
from evolution.store.source_files import (
    LOOK_AGAIN,
    PHASE,
    OnProgress,
    SourceUnusable,
    Waiting,
    linked,
    megabytes,
    see_that_it_fits,
    turn,
)

PIECE = 16 << 20
"""Bytes of an object that one request asks for."""
REQUESTS = 8
"""At once."""
LISTINGS = 3
"""So often the source is looked at anew because it changed while it was being read."""
SOURCE_IS_WRONG = {"NoSuchBucket", "NoSuchKey", "AccessDenied", "InvalidBucketName"}


@dataclass(frozen=True)
class SourceObject:
    bucket: str
    key: str
    etag: str
    size: int

    def below(self, folder: Path) -> Path:
        identity = canonical_json([self.bucket, self.key, self.etag, self.size])
        name = hashlib.sha256(identity).hexdigest()
        return folder / name[:2] / name

    def is_in(self, folder: Path) -> bool:
        path = self.below(folder)
        return path.is_file() and path.stat().st_size == self.size


def fetch(uri: str, cache: Path, progress: OnProgress, waiting: Waiting) -> Path:
    """The file or folder at `uri` as it is now.

    Raises:
        SourceUnusable: nothing there, or not readable.
        StoreUnavailable: the S3 server does not answer.
        StoreRefused: it does not accept the credentials, there are none, or the disk is full.
    """
    bucket, prefix = bucket_and_prefix(uri)
    try:
        client = s3.client(uri)
        for _ in range(LISTINGS):
            objects = list(listed(client, bucket, prefix, uri))
            if not objects:
                raise SourceUnusable(f"{uri}: there is no object of that name, nor one below it")
            # One object of that very name is a file; otherwise the name is a folder.
            whole = [found for found in objects if found.key == prefix]
            files = {_name(found, prefix): found.below(_folder(cache)) for found in whole or objects}
            _refuse_files_that_are_folders(files, uri)
            try:
                _download(client, whole or objects, uri, cache, progress, waiting)
            except ObjectChanged:
                continue
            folder = linked(cache, files)
            return folder / _name(whole[0], prefix) if whole else folder
    except (MinioException, urllib3.exceptions.HTTPError) as error:
        failure = s3.store_error(error, uri, "cannot be read", "s3:ListBucket and s3:GetObject")
        if isinstance(error, S3Error) and error.code in SOURCE_IS_WRONG:
            raise SourceUnusable(str(failure)) from error
        raise failure from error
    raise SourceUnusable(f"{uri}: objects are replaced while they are read; try again when nobody writes there")


def _folder(cache: Path) -> Path:
    return cache / "sources" / "objects"


def _name(found: SourceObject, prefix: str) -> str:
    return found.key.removeprefix(prefix).lstrip("/") or PurePosixPath(prefix).name


def listed(client: Minio, bucket: str, prefix: str, uri: str) -> Iterator[SourceObject]:
    for found in client.list_objects(bucket, prefix, recursive=True):
        name = found.object_name or ""
        below = name.removeprefix(prefix).lstrip("/") if prefix else name
        if name.endswith("/") or (prefix and name != prefix and not name.startswith(f"{prefix}/")):
            continue
        if {"", ".", ".."} & {*below.split("/")} and name != prefix:
            raise SourceUnusable(f"{uri}: the object {name!r} has a name that no file can have")
        yield SourceObject(bucket, name, (found.etag or "").strip('"'), found.size or 0)


def _refuse_files_that_are_folders(names: Iterable[str], uri: str) -> None:
    folders = {str(folder) for name in names for folder in PurePosixPath(name).parents}
    if both := sorted(folders & {*names}):
        raise SourceUnusable(f"{uri}: {both[0]!r} is an object and also a folder of others, which no disk can hold")


def _download(
    client: Minio, objects: Iterable[SourceObject], uri: str, cache: Path, progress: OnProgress, waiting: Waiting
) -> None:
    """See that every object lies in the cache."""
    folder = _folder(cache)
    if all(found.is_in(folder) for found in objects):
        return
    with turn(cache, uri, progress, waiting):
        missing = [found for found in objects if not found.is_in(folder)]
        folder.mkdir(parents=True, exist_ok=True)
        writer = hashlib.sha256(uri.encode()).hexdigest()[:16]
        _remove_outdated(folder, writer, missing)
        # With the name of the lock in its own, a partial file has one writer even where prefixes overlap.
        partials = {found: PartialFile(found.below(folder), found.size, PIECE, writer) for found in missing}
        work = _Work(client, partials)
        try:
            see_that_it_fits(folder, work.total - work.done, uri)
            work.do(progress)
        finally:
            work.close()


def _remove_outdated(folder: Path, writer: str, wanted: Iterable[SourceObject]) -> None:
    """Partial files of objects that were replaced before they were complete."""
    names = {found.below(folder).name for found in wanted}
    for path in folder.glob(f"*/*.{writer}.*"):
        if path.name.partition(".")[0] not in names:
            path.unlink(missing_ok=True)


@dataclass
class _Work:
    """Objects that are downloaded in pieces, several at once."""

    client: Minio
    partials: dict[SourceObject, PartialFile]
    done: int = 0
    """Bytes."""
    files: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.total = sum(found.size for found in self.partials)
        self.done = sum(partial.bytes_there for partial in self.partials.values())

    def do(self, progress: OnProgress) -> None:
        pool = ThreadPoolExecutor(REQUESTS, thread_name_prefix="download")
        try:
            pending = {
                pool.submit(self._piece, found, partial, piece)
                for found, partial in self.partials.items()
                for piece in partial.missing
            }
            while pending:
                ended, pending = wait(pending, LOOK_AGAIN, FIRST_EXCEPTION)
                for future in ended:
                    future.result()
                note = f"{self.files} of {len(self.partials)} files"
                progress(PHASE, megabytes(self.done), megabytes(self.total), note)
        finally:
            self._stop.set()
            pool.shutdown(cancel_futures=True)

    def close(self) -> None:
        for partial in self.partials.values():
            partial.close()

    def _piece(self, found: SourceObject, partial: PartialFile, piece: int) -> None:
        start, length = partial.span(piece)
        data = read_range(self.client, found.bucket, found.key, found.etag, start, length) if length else iter(())
        with partial.writer(piece) as write:
            for chunk in data:
                if self._stop.is_set():
                    raise CancelledError
                write(chunk)
                with self._lock:
                    self.done += len(chunk)
        if partial.finished:
            with self._lock:
                self.files += 1
