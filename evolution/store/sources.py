"""What a run names outside its store, documents, evaluation sets, models, adapters: brought to this machine."""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import urllib3
from minio import Minio
from minio.error import MinioException, S3Error

from evolution.store import s3
from evolution.store.base import StoreRefused
from evolution.store.open import bucket_and_prefix, local_path

_SOURCE_IS_WRONG = {"NoSuchBucket", "NoSuchKey", "AccessDenied", "InvalidBucketName"}


class SourceUnusable(Exception):
    """A location that a run names is not there or cannot be read; the message is for people."""


@dataclass(frozen=True)
class _Object:
    name: str
    etag: str
    size: int


def local_copy(uri: str, cache: Path) -> Path:
    """The file or folder at `uri` on this machine: itself for file:// and paths, a copy below `cache` for s3://.

    A copy is brought up to date at every call; objects that have not changed are not downloaded again.

    Raises:
        SourceUnusable: nothing there, not readable, or a scheme that is not supported.
        StoreUnavailable: the S3 server does not answer.
        StoreRefused: the S3 server does not accept the credentials, or there are none.
    """
    if uri.startswith("s3://"):
        return _download(uri, cache / "sources" / hashlib.sha256(uri.encode()).hexdigest()[:16])
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
        raise SourceUnusable(f"{uri!r} cannot be read here: file:///path, a path or s3://bucket/prefix are supported")
    if not path.exists():
        raise SourceUnusable(f"{uri}: there is no such file or folder")
    if not os.access(path, os.R_OK):
        raise SourceUnusable(f"{uri}: not readable for this user")
    return path


def _download(uri: str, copy: Path) -> Path:
    bucket, prefix = bucket_and_prefix(uri)
    try:
        client = s3.client(uri)
        objects = list(_objects(client, bucket, prefix, uri))
        if not objects:
            raise SourceUnusable(f"{uri}: there is no object of that name, nor one below it")
        # One object of that very name is a file; otherwise the name is a folder.
        whole = [o for o in objects if o.name == prefix]
        root = copy / "file" / Path(prefix).name if whole else copy / "files"
        wanted = {root / o.name.removeprefix(prefix).lstrip("/") if not whole else root: o for o in whole or objects}
        copy.mkdir(parents=True, exist_ok=True)
        with (copy / "lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            _bring_up_to_date(client, bucket, wanted, root, copy / "downloaded.jsonl")
    except (MinioException, urllib3.exceptions.HTTPError) as error:
        failure = s3.store_error(error, uri, "cannot be read")
        if isinstance(error, S3Error) and error.code in _SOURCE_IS_WRONG:
            raise SourceUnusable(str(failure)) from error
        raise failure from error
    return root


def _objects(client: Minio, bucket: str, prefix: str, uri: str) -> Iterator[_Object]:
    for found in client.list_objects(bucket, prefix, recursive=True):
        name = found.object_name or ""
        below = name.removeprefix(prefix).lstrip("/") if prefix else name
        if name.endswith("/") or (prefix and name != prefix and not name.startswith(f"{prefix}/")):
            continue
        if {"", ".", ".."} & {*below.split("/")} and name != prefix:
            raise SourceUnusable(f"{uri}: the object {name!r} has a name that no file can have")
        yield _Object(name, found.etag or "", found.size or 0)


def _bring_up_to_date(client: Minio, bucket: str, wanted: dict[Path, _Object], root: Path, journal: Path) -> None:
    there = _read_journal(journal)
    for path in [p for p in root.rglob("*") if p.is_file() and p not in wanted]:
        path.unlink()
    with journal.open("a", encoding="utf-8") as log:
        for path, source in wanted.items():
            name = path.relative_to(journal.parent).as_posix()
            if path.is_file() and path.stat().st_size == source.size and there.get(name) == source.etag:
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
            try:
                with partial.open("wb") as file:
                    found = s3.download(client, bucket, source.name, file)
                if not found:
                    raise SourceUnusable(f"s3://{bucket}/{source.name} was removed while it was being read")
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)
            log.write(json.dumps({"name": name, "etag": source.etag}) + "\n")
            log.flush()


def _read_journal(journal: Path) -> dict[str, str]:
    """ETag of every file as it was downloaded last; a line cut short by a crash is as good as none."""
    there: dict[str, str] = {}
    if journal.exists():
        for line in journal.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
                there[str(entry["name"])] = str(entry["etag"])
            except (ValueError, KeyError, TypeError):
                continue
    return there
