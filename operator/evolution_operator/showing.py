"""What the operator shows of runs to whoever wants to tell others, as metrics do.

A run's figures are shown only as the store has them: nobody sees what a restart could take back.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from evolution.api.run import EvolutionRun
from evolution.api.runtime import EvolutionRuntimeSpec
from evolution.api.status import EvolutionRunStatus
from evolution.attempt import Attempt
from evolution.ledger import Ledger
from evolution.plan.graph import Graph
from evolution_operator.records import RunKey

Words = Literal["applied", "missing", "unreadable"]
"""Whether an attempt's own words about what it spent were there when it ended."""
VerifyFailure = Literal["damaged", "vanished"]
Operation = Literal["manifest", "progress", "history_read", "history_write", "discard"]
"""What the store is asked for."""
Code = Literal["ok", "unavailable", "refused", "timeout", "error"]


@dataclass(frozen=True)
class Shown:
    """A run as it stands."""

    run: EvolutionRun
    graph: Graph
    """With the manifests of its finished stages, in short: without parameters, inputs and versions."""
    ledger: Ledger
    """As the run's history in the store has it."""
    status: EvolutionRunStatus
    runtime: EvolutionRuntimeSpec | None
    """None if it is missing or wrong."""
    progressed_at: datetime | None
    """When a worker last told of progress, or an attempt last began or ended; None if nothing has happened yet."""


class Witness(Protocol):
    """Called from the event loop, which it must not hold up; it never raises."""

    def shown(self, key: RunKey, run: Shown) -> None:
        """A run was looked at, and its history holds this ledger; often nothing has changed since the last time."""

    def gone(self, key: RunKey) -> None:
        """The run is being deleted, or is no more."""

    def wants(self, key: RunKey, ended_at: datetime) -> bool:
        """Whether a run that ended before this process began is to be shown, so that its history is worth reading.

        Asked of all such runs when they are first looked at, and once more right before the history is read: by then
        it is known which of them are the newest.
        """

    def ended(self, namespace: str, attempt: Attempt, words: Words) -> None:
        """An attempt has ended; told once by each process that saw it end."""

    def verify_failed(self, namespace: str, why: VerifyFailure) -> None:
        """A worker found an artifact damaged or missing, or a stage's manifest has vanished; it is made again."""

    def asked(self, operation: Operation, code: Code) -> None:
        """The store was asked for something, and how that ended."""


class Nobody:
    """A witness that looks away."""

    def shown(self, key: RunKey, run: Shown) -> None: ...

    def gone(self, key: RunKey) -> None: ...

    def wants(self, key: RunKey, ended_at: datetime) -> bool:  # noqa: ARG002
        return False

    def ended(self, namespace: str, attempt: Attempt, words: Words) -> None: ...

    def verify_failed(self, namespace: str, why: VerifyFailure) -> None: ...

    def asked(self, operation: Operation, code: Code) -> None: ...
