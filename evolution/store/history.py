"""What a run leaves in the store besides its stages: its settings, the chain of its stages, its last status."""

from collections.abc import Mapping
from types import MappingProxyType

from pydantic import JsonValue, ValidationError

from evolution.api.run import EvolutionRun
from evolution.api.status import EvolutionRunStatus
from evolution.ledger import Ledger
from evolution.observation import Failure
from evolution.plan.graph import Graph
from evolution.plan.manifest import Manifest, Record
from evolution.store import keys
from evolution.store.base import ObjectStore

MOST_BYTES = 32 << 20
"""Of a history: a tenant may write one of any size, and the operator that reads it serves others, too."""


class History(Record):
    """`runs/<name>-<uid8>/history.json`: everything needed to show the run and to know which stages it keeps."""

    run: dict[str, JsonValue]
    """The run file with its effective values."""
    stages: dict[str, str] = {}
    """Fingerprint of every finished stage by id."""
    status: EvolutionRunStatus = EvolutionRunStatus()
    failures: dict[str, Failure] = {}
    """By fingerprint, of the last attempt to go on with the run."""
    ledger: Ledger = Ledger()
    """What this run's own attempts held; adopted stages cost nothing."""
    manifests: dict[str, Manifest] = {}
    """By fingerprint, in short: lets an operator that starts go on without reading every stage."""


def read_history(store: ObjectStore, run_id: str) -> History | None:
    """The run's history, None before its first attempt or if the object is unreadable (it is rewritten then)."""
    data = store.read(keys.history(run_id), MOST_BYTES)
    if data is None:
        return None
    try:
        return History.model_validate_json(data)
    except ValidationError:
        return None


def write_history(
    store: ObjectStore,
    run_id: str,
    run: EvolutionRun,
    graph: Graph,
    status: EvolutionRunStatus,
    *,
    failures: Mapping[str, Failure],
    ledger: Ledger,
    manifests: Mapping[str, Manifest] = MappingProxyType({}),
) -> None:
    history = History(
        run=run.model_dump(by_alias=True, mode="json"),
        stages={stage.id: stage.fingerprint for stage in graph.stages if stage.done and stage.fingerprint},
        status=status,
        failures=dict(failures),
        ledger=ledger,
        manifests=dict(manifests),
    )
    store.write(keys.history(run_id), history.to_json())


def kept_stages(store: ObjectStore) -> dict[str, frozenset[str]]:
    """Fingerprints that each run of this namespace keeps, by run id."""
    kept: dict[str, frozenset[str]] = {}
    for info in store.list(keys.RUNS):
        if info.key.endswith("/history.json"):
            run_id = info.key.split("/")[1]
            history = read_history(store, run_id)
            if history is not None:
                kept[run_id] = frozenset(history.stages.values())
    return kept
