"""A base image where no registry can be reached: Debian 12 with its Python 3.11, by debootstrap from its packages.

`python tests/images/debian_base.py FILE.tar` writes its root file system.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SUITE = "bookworm"
PACKAGES = ("python3", "python3-venv", "ca-certificates")
NOT_IN_SLIM_IMAGES = ("usr/share/doc", "usr/share/info", "usr/share/locale", "usr/share/man")
CERTIFICATES = "etc/ssl/certs/ca-certificates.crt"


def cached_base() -> Path:
    """The root file system as a tar archive, made once per machine (some minutes)."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "evolution"
    archive = cache / f"base-{SUITE}.tar"
    if not archive.exists():
        cache.mkdir(parents=True, exist_ok=True)
        partial = archive.with_suffix(".partial")
        write_base(partial)
        partial.replace(archive)
    return archive


def write_base(archive: Path) -> None:
    """Write the root file system into `archive`; only root can."""
    with tempfile.TemporaryDirectory(prefix="base-") as folder:
        root = Path(folder, "root")
        include = f"--include={','.join(PACKAGES)}"
        subprocess.run(["debootstrap", "--variant=minbase", include, SUITE, root], check=True, stdout=sys.stderr)
        for place in NOT_IN_SLIM_IMAGES:
            shutil.rmtree(root / place, ignore_errors=True)
        for place in ("var/cache/apt", "var/lib/apt/lists"):
            shutil.rmtree(root / place)
            (root / place).mkdir()
        # What this machine trusts, a build does too: the package index may be a mirror with a CA of its own.
        if (trusted := Path("/", CERTIFICATES)).exists():
            shutil.copyfile(trusted, root / CERTIFICATES)
        # Not the devices: a container gets its own.
        command = [
            "tar",
            "--create",
            "--numeric-owner",
            "--exclude=./dev/*",
            "--file",
            archive,
            "--directory",
            root,
            ".",
        ]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    write_base(Path(sys.argv[1]))
