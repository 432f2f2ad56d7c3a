"""A run as its store shows it: what is done, and what some worker reports to be doing. Looks, and changes nothing."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Protocol

from evolution.api.run import EvolutionRun
from evolution.decide import Plan, decide
from evolution.ledger import Ledger
from evolution.local.attempts import lost
from evolution.local.places import StoredRun
from evolution.observation import Active, Observation
from evolution.plan.manifest import Manifest
from evolution.plan.worker import Progress
from evolution.store import keys
from evolution.store.artifacts import ArtifactDamaged
from evolution.store.history import History, read_history

STALE_SECONDS = 20.0
"""A worker writes its progress every 5 s; one that has been silent for this long is taken to be gone."""


class Warn(Protocol):
    def __call__(self, message: str, /) -> None: ...


LookUp = Callable[[str], Manifest | None]
"""From a fingerprint to the manifest in the store, None if there is none."""


def settle(run: EvolutionRun, known: dict[str, Manifest | None], seen: Observation, look_up: LookUp) -> Plan:
    """Decide, looking up in the store what the decision asks for, until it asks no more. Fills `known`."""
    while True:
        plan = decide(run, seen)
        if not plan.lookups:
            return plan
        for fingerprint in plan.lookups:
            known[fingerprint] = look_up(fingerprint)


def observe(stored: StoredRun, warn: Warn) -> Plan:
    """The run as the store shows it, from outside.

    Raises:
        StoreError: the store cannot be read.
    """
    store = stored.artifacts.store

    def look_up(fingerprint: str) -> Manifest | None:
        try:
            return stored.artifacts.manifest(fingerprint)
        except ArtifactDamaged as damage:
            warn(f"{damage}; its stage is done again")
            return None

    known: dict[str, Manifest | None] = {}
    history = read_history(store, stored.id)
    seen = Observation(
        manifests=known,
        now=datetime.now(UTC),
        failures=history.failures if history else {},
        ledger=_ledger(stored, history),
        previous=history.status if history else Plan().status,
        history_uri=f"{store.uri}/{keys.history(stored.id)}",
    )
    plan = settle(stored.run, known, seen, look_up)
    active = _active(stored, plan)
    return decide(stored.run, replace(seen, active=active)) if active else plan


def read_ledger(stored: StoredRun) -> Ledger:
    """What the run's attempts have held; empty if it has no history, or that of an older version.

    Raises:
        StoreError: the store cannot be read.
    """
    return _ledger(stored, read_history(stored.artifacts.store, stored.id))


def _ledger(stored: StoredRun, history: History | None) -> Ledger:
    return lost(history.ledger, stored.id, stored.artifacts.store, silent=STALE_SECONDS) if history else Ledger()


def _active(stored: StoredRun, plan: Plan) -> dict[str, Active]:
    found: dict[str, Active] = {}
    for stage in plan.start:
        data = stored.artifacts.store.read(keys.progress(stored.id, stage.fingerprint or ""))
        if data is None:
            continue
        progress = Progress.model_validate_json(data)
        age = datetime.now(UTC) - datetime.fromisoformat(progress.updated_at)
        if stage.fingerprint and age.total_seconds() < STALE_SECONDS:
            found[stage.fingerprint] = Active(stage.fingerprint, stage.id, progress=progress)
    return found
