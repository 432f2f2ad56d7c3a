"""Losses that were computed before, by the content of what was scored: nothing is computed twice on one machine.

A span's key says all that its loss depends on except model, machine and program; those name the file. Several workers
may use it at once, of several machines where they share the folder. It may be deleted at any time, and whatever is
wrong with it costs time only.
"""

import platform
import re
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from math import isfinite
from pathlib import Path

import torch
import transformers

from evolution.plan.stage import SEMANTICS, Kind, canonical_json, sha256
from evolution_trainer.rows import windows

AT_ONCE = 500
"""Keys of one query."""
CPU_INFO = Path("/proc/cpuinfo")
PATIENCE = 5.0
"""Seconds to wait for another worker that is writing."""


class LossCache:
    """What one stage knows: in `own`, a file that nobody else uses, and in `shared`, if it can be used."""

    def __init__(self, own: sqlite3.Connection, shared: sqlite3.Connection | None) -> None:
        self._own = own
        self._shared = shared

    def find(self, keys: Collection[str]) -> dict[str, float]:
        """The losses that are known, by key."""
        found: dict[str, float] = {}
        for file in (self._own, self._shared):
            if file is not None:
                with suppress(sqlite3.Error):
                    for some in windows((key for key in keys if key not in found), AT_ONCE):
                        marks = ",".join("?" * len(some))
                        found |= dict(file.execute(f"SELECT key, loss FROM losses WHERE key IN ({marks})", some))
        return found

    def keep(self, losses: Mapping[str, float]) -> None:
        """For this stage and, where it can be, for others."""
        if self._shared is None or not _insert(self._shared, losses.items()):
            _insert(self._own, losses.items())

    def restore(self, losses: Iterable[tuple[str, float]]) -> None:
        """For this stage alone: what another machine has computed for it."""
        _insert(self._own, losses)


@contextmanager
def opened_cache(own: Path, shared: Path | None) -> Iterator[LossCache]:
    """Files at these places, made where there is none."""
    with closing(_opened(own)) as mine:
        theirs = None
        if shared is not None:
            with suppress(sqlite3.Error, OSError):
                shared.parent.mkdir(parents=True, exist_ok=True)
                theirs = _opened(shared)
        try:
            yield LossCache(mine, theirs)
        finally:
            if theirs is not None:
                theirs.close()


def file_name(model: str, device: torch.device) -> str:
    """Of the losses under the model with that digest on this machine, to the last bit."""
    processor = _processor() if device.type == "cpu" else torch.cuda.get_device_name(device)
    capability = torch.backends.cpu.get_cpu_capability()  # type: ignore[no-untyped-call]
    machine = [device.type, processor, capability, torch.get_num_threads()]
    program = [SEMANTICS[Kind.SCORE], torch.__version__, transformers.__version__]
    return sha256(canonical_json([model, machine, program])) + ".sqlite3"


def _processor() -> str:
    """Its model. `platform.processor` does not know it on Linux."""
    with suppress(OSError):
        if found := re.search(r"^model name\s*:\s*(.*)$", CPU_INFO.read_text(encoding="utf-8"), re.MULTILINE):
            return found[1]
    return platform.processor()


def _opened(path: Path) -> sqlite3.Connection:
    file = sqlite3.connect(path, timeout=PATIENCE)
    try:
        file.execute("CREATE TABLE IF NOT EXISTS losses (key TEXT PRIMARY KEY, loss REAL NOT NULL) WITHOUT ROWID")
    except BaseException:
        file.close()
        raise
    return file


def _insert(file: sqlite3.Connection, losses: Iterable[tuple[str, float]]) -> bool:
    """Whether it could be done; a loss that is no number is left out."""
    try:
        with file:
            rows = ((key, loss) for key, loss in losses if isfinite(loss))
            file.executemany("INSERT OR IGNORE INTO losses VALUES (?, ?)", rows)
    except sqlite3.Error:
        return False
    return True
