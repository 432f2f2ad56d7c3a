"""A child process that answers lines with lines, under deadlines."""

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping, Sequence

LAST_LINES = 12
GRACE_SECONDS = 10.0
"""How long a child whose output has ended may take to leave."""


class ChildFailed(Exception):
    """The child does not answer any more, and what it said last."""


class Child:
    """A process in a session of its own, until it is closed.

    What it writes to standard error goes to this process's, too.
    """

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._name = name
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
        self._answers: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._last: deque[str] = deque(maxlen=LAST_LINES)
        self._readers = [threading.Thread(target=read, daemon=True) for read in (self._read, self._forward)]
        for reader in self._readers:
            reader.start()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        """Kill it, with all its children, and wait for its end."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # a line that it did not read any more
            self._process.stdin.close()
        for reader in self._readers:
            reader.join(GRACE_SECONDS)

    def ask(self, line: bytes, seconds: float) -> bytes:
        """Its answer to `line`.

        Raises:
            ChildFailed: it ended, or was silent for so many seconds.
        """
        # Aside: a child that hangs reads nothing, and a long line would wait for it.
        threading.Thread(target=self._write, args=(line,), daemon=True).start()
        try:
            answer = self._answers.get(timeout=seconds)
        except queue.Empty:
            raise ChildFailed(f"{self._name} was silent for {seconds:.0f} s{self._said()}") from None
        if answer is None:
            raise ChildFailed(f"{self._name} {self._end()}{self._said()}")
        return answer

    def _end(self) -> str:
        try:
            code = self._process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            return "closed its output"
        self._readers[1].join(GRACE_SECONDS)
        return f"ended with exit code {code}" if code >= 0 else f"was killed by signal {-code}"

    def _said(self) -> str:
        return ", its last words: " + " | ".join(self._last) if self._last else ", without a word"

    def _write(self, line: bytes) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # what it had to say about its end is still to be read
            self._process.stdin.write(line + b"\n")
            self._process.stdin.flush()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                if line.endswith(b"\n"):  # else cut off by the death of the process
                    self._answers.put(line)
        self._answers.put(None)

    def _forward(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as lines:
            for data in lines:
                line = data.decode(errors="replace").rstrip()
                print(line, file=sys.stderr)  # noqa: T201
                if line:
                    self._last.append(line)
