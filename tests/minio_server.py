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


class MinioServer:
    """Its data and log lie in `folder`; it can be stopped and started again at the same address."""

    def __init__(self, binary: Path, folder: Path) -> None:
        self._binary, self._folder = binary, folder
        self._address, self._console = (f"127.0.0.1:{port}" for port in _free_ports())
        self._process: subprocess.Popen[bytes] | None = None
        self.endpoint = f"http://{self._address}"
        self.client = Minio(self._address, ACCESS_KEY, SECRET_KEY, secure=False)

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

    def start(self) -> None:
        """Raises TimeoutError, with the end of its log, if it does not answer."""
        log = self._folder / "minio.log"
        environment = {
            **os.environ,
            "MINIO_ROOT_USER": ACCESS_KEY,
            "MINIO_ROOT_PASSWORD": SECRET_KEY,
            "MINIO_BROWSER": "off",
            "MINIO_UPDATE": "off",
            "HOME": str(self._folder),
        }
        places = ["--address", self._address, "--console-address", self._console]
        command = [str(self._binary), "server", str(self._folder / "data"), *places, "--quiet"]
        with log.open("ab") as output:
            self._process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
        impatient = urllib3.PoolManager(timeout=2, retries=False)
        client = Minio(self._address, ACCESS_KEY, SECRET_KEY, secure=False, http_client=impatient)
        _wait(client, self._process, log)

    def stop(self) -> None:
        if self._process:
            self._process.terminate()
            self._process.wait(timeout=30)


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
    server = MinioServer(binary, folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()


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
