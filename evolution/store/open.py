"""From a location to the store there."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from evolution.store.base import ObjectStore, StoreRefused
from evolution.store.folder import FolderStore
from evolution.store.s3 import S3Store


def open_store(uri: str) -> ObjectStore:
    """The store at file:///folder, at the path of a folder, or at s3://bucket/prefix; nothing is asked or written yet.

    Raises:
        StoreRefused: no such kind of store, or an S3 server without credentials (see `evolution.store.s3`).
    """
    if uri.startswith("s3://"):
        bucket, prefix = bucket_and_prefix(uri)
        return S3Store(bucket, prefix)
    folder = local_path(uri)
    if folder is None:
        raise StoreRefused(f"{uri!r} is no store: file:///folder, a folder's path or s3://bucket/prefix are supported")
    return FolderStore(folder)


def local_path(uri: str) -> Path | None:
    """The path that file:///path or a plain path names; None for any other URI.

    Raises:
        StoreRefused: a file:// URI that names another host, as file://folder does by mistake.
    """
    if not uri:
        return None
    if "://" not in uri:
        return Path(uri)
    parts = urlsplit(uri.replace("?", "%3F").replace("#", "%23"))
    if parts.scheme != "file":
        return None
    if parts.netloc not in {"", "localhost"} or not parts.path:
        raise StoreRefused(f"{uri!r} names no local path: three slashes are needed, as in file:///folder")
    return Path(unquote(parts.path))


def bucket_and_prefix(uri: str) -> tuple[str, str]:
    """The two parts of s3://bucket/prefix; the prefix without slashes around it, perhaps empty.

    Raises:
        StoreRefused: no bucket.
    """
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    if len(bucket) < 3:
        raise StoreRefused(f"{uri!r} names no bucket: s3://bucket/prefix, a bucket's name having 3 characters or more")
    return bucket, prefix.strip("/")
