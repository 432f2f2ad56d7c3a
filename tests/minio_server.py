"""A real MinIO server on loopback, for as long as a block of code needs one."""

import os
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import urllib3
from minio import Minio
from minio.error import MinioException

ACCESS_KEY = "evolution"
SECRET_KEY = "only-for-tests"
DEADLINE = 60.0
"""Seconds until the server must answer."""


@dataclass(frozen=True)
class MinioServer:
    endpoint: str
    """http://127.0.0.1:port."""
    client: Minio

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to reach it, as `evolution.store.s3` reads it."""
        return {
            "EVOLUTION_S3_ENDPOINT": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": "us-east-1",
        }

    def new_bucket(self) -> str:
        bucket = f"test-{uuid.uuid4().hex[:12]}"
        self.client.make_bucket(bucket)
        return bucket


@dataclass(frozen=True)
class MinioBucket:
    """An empty bucket on a real MinIO server; the environment holds endpoint and credentials."""

    server: MinioServer
    bucket: str

    @property
    def uri(self) -> str:
        return f"s3://{self.bucket}"


@contextmanager
def minio_server(binary: Path, folder: Path) -> Iterator[MinioServer]:
    """A server with its data and log in `folder`; stopped at the end.

    Raises:
        TimeoutError: it does not answer; the message ends with its log.
    """
    address, console = (f"127.0.0.1:{port}" for port in _free_ports())
    log = folder / "minio.log"
    environment = {
        **os.environ,
        "MINIO_ROOT_USER": ACCESS_KEY,
        "MINIO_ROOT_PASSWORD": SECRET_KEY,
        "MINIO_BROWSER": "off",
        "MINIO_UPDATE": "off",
        "HOME": str(folder),
    }
    command = [
        str(binary),
        "server",
        str(folder / "data"),
        "--address",
        address,
        "--console-address",
        console,
        "--quiet",
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        impatient = urllib3.PoolManager(timeout=2, retries=False)
        _wait(Minio(address, ACCESS_KEY, SECRET_KEY, secure=False, http_client=impatient), process, log)
        yield MinioServer(f"http://{address}", Minio(address, ACCESS_KEY, SECRET_KEY, secure=False))
    finally:
        process.terminate()
        process.wait(timeout=30)


def _wait(client: Minio, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + DEADLINE
    while True:
        try:
            # Its health endpoint says ready before it is; this request says so when it is.
            client.list_buckets()
            return
        except (MinioException, urllib3.exceptions.HTTPError) as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise TimeoutError(f"MinIO did not come up: {error}\n{log.read_text()[-2000:]}") from error
            time.sleep(0.05)


def _free_ports() -> tuple[int, int]:
    with socket.socket() as first, socket.socket() as second:
        first.bind(("127.0.0.1", 0))
        second.bind(("127.0.0.1", 0))
        return first.getsockname()[1], second.getsockname()[1]
