"""Bytes of objects in a bucket: a broken connection is taken up where it broke, and what comes is never a mixture."""

from collections.abc import Callable, Iterator
from typing import BinaryIO

import urllib3
from minio import Minio
from minio.error import S3Error

ATTEMPTS = 4
CHUNK = 1 << 18
"""Bytes held in memory at once, and at most lost when a connection breaks."""


class ObjectChanged(Exception):
    """The object is no longer the one that was listed."""


def download(
    client: Minio, bucket: str, name: str, file: BinaryIO, look: Callable[[int], None] = lambda _size: None
) -> bool:
    """Stream an object into an empty file; False if there is none. `look` is told how many bytes will come."""
    etag = ""
    for attempt in range(1, ATTEMPTS + 1):
        headers: dict[str, str | list[str] | tuple[str]] = {"If-Match": etag} if etag else {}
        try:
            response = client.get_object(bucket, name, offset=file.tell(), request_headers=headers)
        except S3Error as error:
            if error.code == "NoSuchKey":
                return False
            if error.code != "PreconditionFailed" or attempt == ATTEMPTS:
                raise
            # Replaced between two pieces: from the start, so that it is one object and no mixture.
            etag = ""
            file.seek(0)
            file.truncate()
            continue
        try:
            etag = response.headers["ETag"]
            look(int(response.headers.get("Content-Length", 0)))
            file.writelines(response.stream(CHUNK))
            return True
        except (urllib3.exceptions.ProtocolError, urllib3.exceptions.TimeoutError):
            if attempt == ATTEMPTS:
                raise
        finally:
            response.close()
            response.release_conn()
    raise AssertionError("unreachable")


def read_range(client: Minio, bucket: str, name: str, etag: str, start: int, length: int) -> Iterator[bytes]:
    """`length` bytes (1 or more) from `start` on of the object that has this ETag (without quotes).

    Raises:
        ObjectChanged: it is gone, or has another ETag.
    """
    read = 0
    for attempt in range(1, ATTEMPTS + 1):
        try:
            response = client.get_object(
                bucket, name, offset=start + read, length=length - read, request_headers={"If-Match": f'"{etag}"'}
            )
        except S3Error as error:
            if error.code in {"NoSuchKey", "PreconditionFailed"}:
                raise ObjectChanged(name) from error
            raise
        try:
            # A server may know neither If-Match nor Range.
            if response.headers["ETag"].strip('"') != etag or response.headers["Content-Length"] != str(length - read):
                raise ObjectChanged(name)
            for data in response.stream(CHUNK):
                read += len(data)
                yield data
            return
        except (urllib3.exceptions.ProtocolError, urllib3.exceptions.TimeoutError):
            if attempt == ATTEMPTS:
                raise
        finally:
            response.close()
            response.release_conn()
