"""Child processes that end with this process, and ports that nobody else gets meanwhile."""

import http.client
import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

DEADLINE = 60.0
"""Seconds until a server must be ready."""
GRACE = 2.0
"""Seconds that a stopped server gets to end by itself."""

# The kernel sends the death signal when the *thread* that started a child ends; this one lasts as long as the process.
_starter = ThreadPoolExecutor(1, "processes")


def start_child(command: Sequence[str], **options: Any) -> "subprocess.Popen[bytes]":
    """`Popen` in a session of its own; on Linux the child is killed when this process dies, however it dies."""
    bound = ["setpriv", "--pdeathsig", "KILL", "--", *command] if shutil.which("setpriv") else list(command)
    return _starter.submit(lambda: subprocess.Popen[bytes](bound, start_new_session=True, **options)).result()


class Port:
    """A port on loopback for one server that binds it with SO_REUSEPORT, and kept for it while it restarts."""

    def __init__(self) -> None:
        self._held = socket.socket()
        self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._held.bind(("127.0.0.1", 0))
        self.number: int = self._held.getsockname()[1]

    def release(self) -> None:
        self._held.close()


class Server:
    """A program that serves, with its log in a file; it can be stopped and started again."""

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        log: Path,
        ready: Callable[[], str],
        environment: Mapping[str, str],
    ) -> None:
        """`ready` says why the server is not ready yet; an empty text once it is."""
        self.name = name
        self._command = [str(word) for word in command]
        self._log = log
        self._ready = ready
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """None while it does not run."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def launch(self) -> None:
        """Start it and return at once."""
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            self._process = start_child(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._log.parent,
                env={**os.environ, **self._environment},
            )

    def wait(self) -> None:
        """Until it is ready.

        Raises:
            RuntimeError: it ended, or is not ready in time; with the end of its log.
        """
        assert self._process
        deadline = time.monotonic() + DEADLINE
        while why := self._ready():
            if self._process.poll() is not None:
                raise RuntimeError(f"{self.name} ended with {self._process.returncode}:\n{self._tail()}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} is not ready after {DEADLINE:.0f} s: {why}\n{self._tail()}")
            time.sleep(0.03)

    def stop(self) -> None:
        """SIGTERM, and SIGKILL for what takes its time: a server that waits for its clients' watches to end."""
        if self._process and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(GRACE)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        if self._process and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _tail(self) -> str:
        return self._log.read_text(errors="replace")[-3000:]


def answers(port: Port, path: str, *, tls: bool = True) -> Callable[[], str]:
    """For `Server`: ready once GET `path` gives 200."""
    context = ssl._create_unverified_context() if tls else None

    def ready() -> str:
        connection = (
            http.client.HTTPSConnection("127.0.0.1", port.number, timeout=5, context=context)
            if context
            else http.client.HTTPConnection("127.0.0.1", port.number, timeout=5)
        )
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            return repr(error)
        finally:
            connection.close()
        return "" if response.status == 200 else f"{response.status} {body[-300:]}"

    return ready
