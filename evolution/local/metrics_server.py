"""The metrics of a run on this machine over HTTP, while it goes on: GET /metrics, for a Prometheus on this machine."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from prometheus_client import CollectorRegistry, start_http_server

from evolution.decide import Plan
from evolution.ledger import Ledger
from evolution.local.places import StoredRun
from evolution.local.runner import Audience
from evolution.metrics.exposition import RunCollector, RunMetrics
from evolution.metrics.run_samples import RunFigures, run_samples
from evolution.plan.worker import Event
from evolution.store.base import StoreError
from evolution.store.history import read_history

ADDRESS = "127.0.0.1"


class PortUnusable(Exception):
    """The port cannot be listened on; the message says why, for people."""


class MetricsServer:
    """An `Audience` that serves what it hears of a run, and passes it on to `audience`.

    Sums are those of the history in the store, so that a run that was interrupted goes on with no counter lower.

    Raises:
        PortUnusable: nothing is served.
    """

    def __init__(self, local: StoredRun, audience: Audience, port: int) -> None:
        self._local = local
        self._audience = audience
        self._figures: RunFigures | None = None
        self._progressed_at: datetime | None = None
        registry = CollectorRegistry()
        registry.register(RunCollector(self._metrics))
        try:
            self._server, self._thread = start_http_server(port, ADDRESS, registry)
        except (OSError, OverflowError) as error:
            raise PortUnusable(f"cannot listen on {ADDRESS}:{port}: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def planned(self, plan: Plan) -> None:
        if plan.graph is not None:
            self._figures = RunFigures(self._local.run, plan.graph, self._ledger(), plan.status, datetime.now(UTC))
        self._audience.planned(plan)

    def happened(self, event: Event) -> None:
        self._progressed_at = datetime.now(UTC)
        self._audience.happened(event)

    def warned(self, message: str) -> None:
        self._audience.warned(message)

    def _metrics(self) -> Iterator[RunMetrics]:
        if self._figures is None:
            return
        now = datetime.now(UTC)
        figures = replace(self._figures, ledger=self._ledger(), now=now, progressed_at=self._progressed_at)
        metadata = self._local.run.metadata
        yield RunMetrics(metadata.namespace, metadata.name, tuple(run_samples(figures)))

    def _ledger(self) -> Ledger:
        """As the store has it; while the store cannot be read, as it was before."""
        before = self._figures.ledger if self._figures else Ledger()
        try:
            history = read_history(self._local.artifacts.store, self._local.id)
        except StoreError:
            return before
        return history.ledger if history else before
