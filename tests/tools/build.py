"""Servers that the tests run against: found, or built once from their pinned Go modules into a cache.

`python tests/tools/build.py minio` builds ahead of a test run, which would otherwise wait for it.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

PACKAGES = {"minio": "github.com/minio/minio"}
"""Main package of each tool; its module, with every version pinned, is the folder of that name beside this file."""


class Unavailable(Exception):
    """A tool is neither here nor can be built here, and why."""


def binary(tool: str) -> Path:
    """The program: from KUBEBUILDER_ASSETS, the PATH, the cache, or else built now (minutes, once per machine).

    Raises:
        Unavailable: there is no Go, or it could not build.
    """
    assets = os.environ.get("KUBEBUILDER_ASSETS", "")
    if assets and (found := shutil.which(tool, path=assets)):
        return Path(found)
    if found := shutil.which(tool):
        return Path(found)
    module = Path(__file__).parent / tool
    pinned = hashlib.sha256((module / "go.mod").read_bytes() + (module / "go.sum").read_bytes()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "evolution" / "bin"
    built = cache / f"{tool}-{pinned}"
    if built.exists():
        return built
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{tool}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not built.exists():
            _build(tool, module, built)
    return built


def _build(tool: str, module: Path, built: Path) -> None:
    go = shutil.which("go")
    if go is None:
        raise Unavailable(f"{tool} is not on the PATH, and without Go it cannot be built")
    sys.stderr.write(f"building {tool}, once: some minutes\n")
    partial = built.with_name(f"{built.name}.partial")
    command = [go, "build", "-trimpath", "-ldflags", "-s -w", "-o", str(partial), PACKAGES[tool]]
    done = subprocess.run(
        command, cwd=module, env={**os.environ, "CGO_ENABLED": "0"}, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        partial.unlink(missing_ok=True)
        raise Unavailable(f"{tool} could not be built: {' '.join(done.stderr.strip().splitlines()[-3:])}")
    partial.replace(built)


if __name__ == "__main__":
    try:
        sys.stdout.writelines(f"{binary(tool)}\n" for tool in sys.argv[1:] or PACKAGES)
    except Unavailable as error:
        sys.exit(str(error))
