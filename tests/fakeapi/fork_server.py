"""Starts processes of a Python module in milliseconds: a parent that has imported everything forks them.

`python -m fakeapi.fork_server PACKAGE` reads one JSON object per line, with module, arguments, environment and log, and
answers each with a line that holds the process id. Its children die with it.
"""

import ctypes
import gc
import importlib
import json
import os
import pkgutil
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

PR_SET_PDEATHSIG = 1


class ForkServer:
    """The parent, from the outside. `with ForkServer("evolution_operator") as server: pid = server.spawn(...)`."""

    def __init__(self, package: str) -> None:
        self.package = package
        self._lock = threading.Lock()

    def spawn(self, module: str, arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> int:
        """Process id of `python -m module arguments`, whose output goes to `log`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        wanted = {
            "module": module,
            "arguments": list(arguments),
            "environment": dict(environment),
            "log": str(log),
        }
        with self._lock:
            self._process.stdin.write(json.dumps(wanted) + "\n")
            self._process.stdin.flush()
            return int(self._process.stdout.readline())

    def __enter__(self) -> Self:
        paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fakeapi.fork_server", self.package],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


def main() -> None:
    preload(sys.argv[1])
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children are not waited for
    parent = os.getpid()
    for line in sys.stdin:
        wanted = json.loads(line)
        pid = os.fork()
        if pid == 0:
            become(parent, **wanted)
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()


def preload(package: str) -> None:
    """Import a package with all its modules, and what they import."""
    found = importlib.import_module(package)
    for module in pkgutil.walk_packages(getattr(found, "__path__", []), f"{package}."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    gc.collect()
    gc.freeze()


def become(parent: int, module: str, arguments: Sequence[str], environment: Mapping[str, str], log: str) -> None:
    """Turn this forked child into `python -m module`; does not return."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.update(environment)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.argv = [module, *arguments]
    code = 1
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
