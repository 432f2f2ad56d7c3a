"""The operator, noting in a file when it first looked at which run: `python -m bench.controlplane.observed_operator`.

The rest is as in `python -m evolution_operator`, arguments and environment included.
"""

import os
import sys
import time
from io import TextIOWrapper
from pathlib import Path

from evolution.store.cache import cache_folder
from evolution_operator.app import run_operator
from evolution_operator.cache import Cache
from evolution_operator.gateway import Gateway
from evolution_operator.knowledge import Knowledge
from evolution_operator.reconcile import Reconciler
from evolution_operator.records import RunKey
from evolution_operator.settings import Settings, read_settings
from evolution_operator.showing import Witness

NOTES = "BENCH_NOTES"
"""Environment variable: the file. Each line is seconds since the epoch and the name of a run, after its first look."""


class ObservedReconciler:
    def __init__(self, reconciler: Reconciler, notes: TextIOWrapper) -> None:
        self._reconciler = reconciler
        self._notes = notes
        self._seen: set[RunKey] = set()

    async def reconcile(self, key: RunKey) -> float | None:
        again = await self._reconciler.reconcile(key)
        if key not in self._seen:
            self._seen.add(key)
            self._notes.write(f"{time.time()} {key.name}\n")
        return again


def main() -> int:
    with Path(os.environ[NOTES]).open("w", buffering=1) as notes:

        def observed(gateway: Gateway, cache: Cache, settings: Settings, witness: Witness) -> ObservedReconciler:
            knowledge = Knowledge(settings.store, cache_folder(), asked=witness.asked)
            return ObservedReconciler(Reconciler(gateway, cache, knowledge, settings, witness=witness), notes)

        return run_operator(read_settings(sys.argv[1:]), observed)


if __name__ == "__main__":
    sys.exit(main())
