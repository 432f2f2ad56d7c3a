"""The operator as its own process, against whatever a kubeconfig names."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

GRACE_SECONDS = 20.0


@dataclass(frozen=True)
class OperatorProcess:
    process: "subprocess.Popen[bytes]"
    log: Path

    def kill(self) -> None:
        """As a node that dies: no goodbye."""
        self.process.kill()
        self.process.wait(GRACE_SECONDS)

    def stop(self) -> int:
        """As a rollout ends a pod; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(GRACE_SECONDS)

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")


@contextmanager
def running_operator(
    kubeconfig: Path, store: str, folder: Path, *arguments: str, environment: Mapping[str, str] | None = None
) -> Iterator[OperatorProcess]:
    """`evolution-operator` until the end of the block; log and cache lie in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "operator.log"
    command = [sys.executable, "-m", "evolution_operator", "--store", store, "--log-format", "plain", *arguments]
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            env={
                **os.environ,
                "KUBECONFIG": str(kubeconfig),
                "EVOLUTION_CACHE": str(folder / "cache"),
                **(environment or {}),
            },
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    operator = OperatorProcess(process, log)
    try:
        yield operator
    finally:
        if process.poll() is None:
            try:
                operator.stop()
            except subprocess.TimeoutExpired:
                operator.kill()
