"""A store in a bucket of any S3-compatible server, through the `minio` package.

Endpoint and credentials come from the environment: EVOLUTION_S3_ENDPOINT (http:// or https://, Amazon's if unset),
AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN or a token (`evolution.store.s3_credentials`), AWS_REGION
(asked from the server if unset), and SSL_CERT_FILE for a certificate authority of one's own.
"""

import contextlib
import io
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import certifi
import urllib3
from minio import Minio
from minio.error import InvalidResponseError, MinioException, S3Error, ServerError

from evolution.store import keys, s3_credentials
from evolution.store.base import ObjectInfo, StoreError, StoreRefused, StoreUnavailable, too_large
from evolution.store.s3_download import ATTEMPTS, download

CONNECT_TIMEOUT = 5.0
"""Seconds."""
READ_TIMEOUT = 30.0
"""Seconds without a byte."""
PART_SIZE = 8 << 20
"""Bytes of a part; a larger object is uploaded in parts, about five of which are in memory."""
MAX_PARTS = 10_000

_BUSY = (429, 500, 502, 503, 504)
_BUSY_CODES = {"SlowDown", "SlowDownRead", "SlowDownWrite", "TooManyRequests", "RequestTimeout", "InternalError"}
_RIGHTS: Mapping[str, str] = {
    "read": "s3:GetObject",
    "write": "s3:PutObject",
    "delete": "s3:DeleteObject",
    "list": "s3:ListBucket",
}
"""What a policy has to allow, by what the store does."""
_EXPLANATIONS: Mapping[str, str] = {
    "NoSuchBucket": "there is no such bucket",
    "AccessDenied": "the credentials do not allow it",
    "InvalidAccessKeyId": "the server does not know the AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "the AWS_SECRET_ACCESS_KEY is not the one that belongs to the AWS_ACCESS_KEY_ID",
    "ExpiredToken": "the AWS_SESSION_TOKEN has expired",
    "RequestTimeTooSkewed": "the clocks of this machine and the server differ too much",
    "XMinioStorageFull": "the server's disks are full",
    "QuotaExceeded": "the bucket's quota is used up",
    "XMinioAdminBucketQuotaExceeded": "the bucket's quota is used up",
}


class S3Store:
    """`ObjectStore` below `prefix` of a bucket.

    Raises:
        StoreRefused: no credentials in the environment, or an endpoint that is none.
    """

    def __init__(self, bucket: str, prefix: str = "") -> None:
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._http = _connections()
        self._client = client(self.uri, self._http)
        self._honours_conditions: bool | None = None

    @property
    def uri(self) -> str:
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def read(self, key: str, most: int | None = None) -> bytes | None:
        def look(size: int) -> None:
            if most is not None and size > most:
                raise too_large(f"the store {self.uri}", key, size, most)

        data = io.BytesIO()
        with self._errors("read", key):
            return data.getvalue() if download(self._client, self._bucket, self._prefix + key, data, look) else None

    def download(self, key: str, path: Path) -> bool:
        partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
        try:
            with self._errors("read", key), partial.open("wb") as file:
                if not download(self._client, self._bucket, self._prefix + key, file):
                    return False
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        return True

    def write(self, key: str, data: bytes) -> None:
        with self._errors("write", key):
            self._client.put_object(self._bucket, self._prefix + key, io.BytesIO(data), len(data))

    def upload(self, path: Path, key: str) -> None:
        part_size = max(PART_SIZE, -(-path.stat().st_size // MAX_PARTS))
        with self._errors("write", key):
            self._client.fput_object(self._bucket, self._prefix + key, str(path), part_size=part_size)

    def create(self, key: str, data: bytes) -> bool:
        if self._honours_conditions is None:
            self._honours_conditions = self.probe() == "Honoured"
        with self._errors("write", key):
            if self._honours_conditions:
                return self._put_if_none(key, data)
        # Of writers that race within these three requests more than one may be told that it won; the last one
        # stands. See docs/store.md on why that costs time and no correctness.
        if self.stat(key) is not None:
            return False
        self.write(key, data)
        return self.read(key) == data

    def stat(self, key: str) -> ObjectInfo | None:
        with self._errors("read", key):
            try:
                found = self._client.stat_object(self._bucket, self._prefix + key)
            except S3Error as error:
                if error.code == "NoSuchKey":
                    return None
                raise
            return ObjectInfo(key, found.size or 0, found.last_modified.timestamp() if found.last_modified else 0.0)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        with self._errors("list", prefix):
            for found in self._client.list_objects(self._bucket, self._prefix + prefix, recursive=True):
                key = (found.object_name or "").removeprefix(self._prefix)
                modified = found.last_modified.timestamp() if found.last_modified else 0.0
                yield ObjectInfo(key, found.size or 0, modified)

    def delete(self, key: str) -> None:
        with self._errors("delete", key):
            self._client.remove_object(self._bucket, self._prefix + key)

    def probe(self) -> Literal["Honoured", "Ignored"]:
        """Whether the server honours `If-None-Match: *`: tried on a small object below `probe/`, removed again."""
        key = f"{keys.PROBE}{uuid.uuid4().hex}"
        self.write(key, b"first")
        try:
            with self._errors("write", key):
                return "Ignored" if self._put_if_none(key, b"second") else "Honoured"
        except StoreRefused as error:
            if isinstance(error.__cause__, S3Error) and error.__cause__.code == "NotImplemented":
                return "Ignored"
            raise
        finally:
            self.delete(key)

    def _put_if_none(self, key: str, data: bytes) -> bool:
        # put_object cannot send the header: what it takes as metadata becomes x-amz-meta-…, and the object is
        # replaced. A presigned URL can, by public means, over the same connections.
        url = self._client.presigned_put_object(self._bucket, self._prefix + key, timedelta(minutes=10))
        unanswered = False
        for attempt in range(1, ATTEMPTS + 1):
            try:
                response = self._http.request("PUT", url, body=data, headers={"If-None-Match": "*"}, retries=False)
            except urllib3.exceptions.HTTPError:
                if attempt == ATTEMPTS:
                    raise
                unanswered = True
            else:
                if response.status == 200:
                    return True
                if response.status == 412:
                    # Unless the object is our own, by an attempt whose answer was lost.
                    return unanswered and self.read(key) == data
                # 409: another conditional write was under way, and may yet fail.
                if attempt == ATTEMPTS or response.status not in (409, *_BUSY):
                    raise _error_of(response)
                unanswered = unanswered or response.status in _BUSY
            time.sleep(0.1 * 2**attempt)
        raise AssertionError("unreachable")

    @contextlib.contextmanager
    def _errors(self, verb: str, key: str) -> Iterator[None]:
        try:
            yield
        except (MinioException, urllib3.exceptions.HTTPError) as error:
            raise store_error(error, f"the store {self.uri}", f"cannot {verb} {key}", _RIGHTS[verb]) from error


def _endpoint() -> str:
    return os.environ.get("EVOLUTION_S3_ENDPOINT") or "https://s3.amazonaws.com"


def client(uri: str, connections: urllib3.PoolManager | None = None) -> Minio:
    """A client for the server that the environment names, to reach `uri`.

    Raises:
        StoreRefused: no credentials in the environment, or an endpoint that is none.
    """
    endpoint = _endpoint()
    parts = urlsplit(endpoint)
    if "@" in parts.netloc:
        raise StoreRefused(
            f"{uri} cannot be reached: EVOLUTION_S3_ENDPOINT holds a user or password; give them as AWS_ACCESS_KEY_ID "
            "and AWS_SECRET_ACCESS_KEY"
        )
    if parts.scheme not in {"http", "https"} or not parts.netloc or parts.path.strip("/"):
        raise StoreRefused(
            f"{uri} cannot be reached: EVOLUTION_S3_ENDPOINT is {endpoint!r}, "
            "where http://host:port or https://host is expected"
        )
    connections = connections or _connections()
    return Minio(
        parts.netloc,
        credentials=s3_credentials.provider(uri, endpoint, connections),
        region=os.environ.get("AWS_REGION") or None,
        secure=parts.scheme == "https",
        http_client=connections,
    )


def store_error(error: Exception, where: str, failed: str, right: str) -> StoreError:
    """What `error` of the client means to people: `where` names the store, `failed` what it could not do, `right` what
    a policy has to allow for that.
    """
    if isinstance(error, S3Error):
        code = error.code or ""
        if code in _BUSY_CODES or (error.response.status in _BUSY and code not in _EXPLANATIONS):
            return StoreUnavailable(f"{where} is overloaded or not ready: {failed} ({code})")
        why = _EXPLANATIONS.get(code) or error.message or "no reason given"
        if code == "AccessDenied":
            why += f"; their policy has to allow {right} there"
        return StoreRefused(f"{where}: {failed}: {why} ({code})")
    if isinstance(error, ServerError):
        return _by_status(error.status_code, where, failed)
    if isinstance(error, InvalidResponseError):
        # The client keeps the status to itself, except in its message.
        status = str(error).partition("Response code: ")[2].partition(",")[0]
        return _by_status(int(status) if status.isdigit() else 0, where, failed)
    reason = error.reason if isinstance(error, urllib3.exceptions.MaxRetryError) else error
    if isinstance(reason, urllib3.exceptions.SSLError):
        return StoreRefused(f"{where}: {failed}: no trusted TLS connection, see SSL_CERT_FILE ({reason})")
    return StoreUnavailable(f"{where} does not answer at {_endpoint()}: {failed} ({reason or error})")


def _by_status(status: int, where: str, failed: str) -> StoreError:
    if status in _BUSY:
        return StoreUnavailable(f"{where} is overloaded or not ready: {failed} (HTTP {status})")
    return StoreRefused(f"{where}: {failed}: what answers is no S3 server (HTTP {status}); see EVOLUTION_S3_ENDPOINT")


def _error_of(response: urllib3.BaseHTTPResponse) -> MinioException:
    if response.data and "xml" in response.headers.get("Content-Type", ""):
        return S3Error.fromxml(response)
    return ServerError(f"HTTP {response.status}", response.status)


def _connections() -> urllib3.PoolManager:
    retry = urllib3.Retry(
        total=ATTEMPTS - 1,
        read=2,
        backoff_factor=0.2,
        status_forcelist=_BUSY,
        allowed_methods=None,
        # The last answer says more than "too many retries".
        raise_on_status=False,
    )
    return urllib3.PoolManager(
        maxsize=16,
        timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT, read=READ_TIMEOUT),
        cert_reqs="CERT_REQUIRED",
        ca_certs=os.environ.get("SSL_CERT_FILE") or certifi.where(),
        retries=retry,
    )
