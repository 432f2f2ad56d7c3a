"""Where this machine keeps what it can fetch or make again."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Downloads, unpacked adapters, logs, scratch space; may be deleted at any time. EVOLUTION_CACHE moves it."""
    if chosen := os.environ.get("EVOLUTION_CACHE"):
        return Path(chosen).resolve()
    return (Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "evolution").resolve()
