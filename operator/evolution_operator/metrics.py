"""What the operator tells Prometheus: of runs as the store has them, of all runs together, and of itself."""

import logging
from collections import Counter as Counts
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import product
from typing import Any

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from evolution.api.runtime import EvolutionRuntimeSpec, seconds
from evolution.attempt import RESULTS, Attempt
from evolution.metrics import families as f
from evolution.metrics.exposition import RunMetrics, page_of_runs
from evolution.metrics.families import Family
from evolution.metrics.run_samples import RunFigures, run_samples, stage_samples
from evolution.plan.stage import Kind
from evolution_operator.cache import Cache
from evolution_operator.queue import KeyedQueue
from evolution_operator.records import QUEUE_LABEL, RunKey, RunRecord, ScheduleRecord
from evolution_operator.settings import Settings
from evolution_operator.showing import Code, Operation, Shown, VerifyFailure, Words
from evolution_operator.shown_runs import ShownRuns
from evolution_operator.stage_totals import StageTotals
from evolution_operator.watch_news import WatchNews

logger = logging.getLogger(__name__)


class Metrics:
    """A witness of what happens, and a page of it for Prometheus."""

    def __init__(
        self,
        settings: Settings,
        cache: Cache,
        requests: Mapping[tuple[str, str, int], int],
        news: WatchNews,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`requests` counts those to the API server by verb, plural and status code."""
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self._cache = cache
        self._requests = requests
        self._news = news
        self._now = clock
        self._started = clock().replace(microsecond=0)  # as Kubernetes tells when runs were created
        self._per_run = settings.metrics_per_run
        self._runs = ShownRuns(settings.metrics_runs, settings.metrics_hours, clock)
        self._totals = StageTotals()
        self._queue: KeyedQueue[Any] | None = None
        self._registry = CollectorRegistry()
        self._make_counters()
        for class_, price in settings.gpu_prices:
            self._price.labels(class_, settings.currency).set(price)
        self._build.labels(version("evolution")).set(1)
        self._registry.register(_Now(self._at_scrape))

    def begins(self, queue: KeyedQueue[Any]) -> None:
        """The operator acts from now on, on what waits in this queue."""
        self._queue = queue
        self._active.set(1)

    def page(self, accept: str) -> tuple[bytes, str]:
        """All metrics in the format that an Accept header asks for, and its content type."""
        encode, content_type = choose_encoder(accept)
        texts = self._runs.texts() if self._per_run else self._totals.texts()
        runs = page_of_runs(texts, openmetrics=content_type.startswith("application/openmetrics-text"))
        return runs.encode() + encode(self._registry), content_type

    def handled(self, handler: str) -> Callable[[float, bool], None]:
        """Told how many seconds each call of a handler took, and whether it went well."""
        well, badly = (self._handlers.labels(handler, outcome) for outcome in f.HANDLER_OUTCOMES)
        return lambda seconds_, ok: (well if ok else badly).observe(seconds_)

    def shown(self, key: RunKey, run: Shown) -> None:
        """See `Witness`."""
        record = self._cache.run(key)
        if record is None:
            return
        try:
            self._show(record, run)
        except Exception:
            logger.exception("%s/%s: its figures cannot be shown as metrics", *key)

    def gone(self, key: RunKey) -> None:
        """See `Witness`."""
        self._runs.hide(key)
        self._totals.forget(key)

    def wants(self, key: RunKey, ended_at: datetime) -> bool:
        """See `Witness`."""
        return self._per_run and self._runs.has_room(key, ended_at)

    def ended(self, namespace: str, attempt: Attempt, words: Words) -> None:
        """See `Witness`."""
        self._records.labels(words).inc()
        if attempt.allocated_at and attempt.result:
            now = self._now()
            self._waited.labels(namespace, attempt.kind.value).observe(attempt.waited(now) / 1000)
            self._held.labels(attempt.kind.value, attempt.result).observe(attempt.held(now) / 1000)

    def verify_failed(self, namespace: str, why: VerifyFailure) -> None:
        """See `Witness`."""
        self._verify.labels(namespace, why).inc()

    def asked(self, operation: Operation, code: Code) -> None:
        """See `Witness`."""
        self._store.labels(operation, code).inc()

    def _show(self, record: RunRecord, run: Shown) -> None:
        runtime = run.runtime
        own_queue = run.run.metadata.labels.get(QUEUE_LABEL, "")
        figures = RunFigures(
            run=run.run,
            graph=run.graph,
            ledger=run.ledger,
            status=run.status,
            now=self._now(),
            progressed_at=run.progressed_at,
            gpu_class=runtime.gpu_class if runtime else "",
            queue=own_queue or (runtime.queue_name if runtime else ""),
            idle_seconds=seconds(runtime.deadlines.idle) if runtime else None,
            without_gpus=_without_gpus(runtime) if runtime else frozenset(),
        )
        key, created_at = record.key, _moment(record.created_at)
        for reason in f.VERIFY_REASONS:
            self._verify.labels(key.namespace, reason)
        for kind in {stage.kind for stage in run.graph.stages}:
            self._waited.labels(key.namespace, kind.value)
        if self._per_run:
            samples = run_samples(figures)
            self._runs.show(key, created_at, _ended_at(run), lambda: RunMetrics(*key, tuple(samples)))
        else:
            self._totals.add(key, stage_samples(figures), new=created_at >= self._started)

    def _make_counters(self) -> None:
        """What is counted as it happens; label sets that are known beforehand begin at 0."""
        self._price = self._gauge(f.GPU_HOURLY_PRICE)
        self._build = self._gauge(f.OPERATOR_BUILD_INFO)
        self._active = self._gauge(f.OPERATOR_ACTIVE)
        self._waited = self._histogram(f.STAGE_QUEUE_SECONDS, f.BUCKETS)
        self._held = self._histogram(f.STAGE_DURATION_SECONDS, f.BUCKETS)
        self._handlers = self._histogram(f.OPERATOR_HANDLER_DURATION, f.HANDLER_BUCKETS)
        self._verify = self._counter(f.ARTIFACT_VERIFY_FAILURES)
        self._records = self._counter(f.OPERATOR_RESULT_RECORDS)
        self._store = self._counter(f.OPERATOR_STORE_REQUESTS)
        for words in f.RECORDS:
            self._records.labels(words)
        for kind, result in product(Kind, RESULTS):
            self._held.labels(kind.value, result)
        for operation in f.label_values(f.OPERATOR_STORE_REQUESTS, "op"):
            for code in f.STORE_CODES:
                self._store.labels(operation, code)

    def _gauge(self, family: Family) -> Gauge:
        return Gauge(family.name, family.help, family.labels, registry=self._registry)

    def _counter(self, family: Family) -> Counter:
        return Counter(family.name, family.help, family.labels, registry=self._registry)

    def _histogram(self, family: Family, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(family.name, family.help, family.labels, buckets=buckets, registry=self._registry)

    def _at_scrape(self) -> Iterator[Metric]:
        """What is looked up rather than counted."""
        runs = [record for record in self._cache.records(RunRecord) if isinstance(record, RunRecord)]
        phases = Counts((record.key.namespace, record.phase) for record in runs)
        namespaces = sorted({namespace for namespace, _ in phases})
        yield _metric(f.RUNS, {(ns, phase): phases[ns, phase] for ns in namespaces for phase in f.PHASES})
        schedules = (record for record in self._cache.records(ScheduleRecord) if isinstance(record, ScheduleRecord))
        known = f.SCHEDULE_STATES
        states = Counts((s.key.namespace, s.state if s.state in known else "Waiting") for s in schedules)
        namespaces = sorted({namespace for namespace, _ in states})
        yield _metric(f.SCHEDULES, {(ns, state): states[ns, state] for ns in namespaces for state in f.SCHEDULE_STATES})
        if self._per_run:
            not_shown = self._runs.not_shown(runs)
            yield _metric(f.OPERATOR_RUNS_NOT_SHOWN, {(reason,): count for reason, count in not_shown.items()})
        answered: dict[tuple[str, ...], float]
        answered = {(verb, plural, str(code)): count for (verb, plural, code), count in self._requests.items()}
        yield _metric(f.OPERATOR_API_REQUESTS, answered)
        yield _metric(f.OPERATOR_WATCH_LAST_EVENT, {(kind,): at for kind, at in self._news.moments.items()})
        if self._queue is not None:
            yield _metric(f.OPERATOR_QUEUE_DEPTH, {(): self._queue.depth})
            yield _metric(f.OPERATOR_QUEUE_OLDEST, {(): self._queue.oldest_age})


class _Now(Collector):
    def __init__(self, look: Callable[[], Iterator[Metric]]) -> None:
        self._look = look

    def collect(self) -> Iterator[Metric]:
        return self._look()


def _metric(family: Family, values: Mapping[tuple[str, ...], float]) -> Metric:
    make: Any = CounterMetricFamily if family.type == "counter" else GaugeMetricFamily
    metric: Metric = make(family.name, family.help, labels=family.labels)
    for labels, value in values.items():
        metric.add_sample(family.name, dict(zip(family.labels, labels, strict=True)), value)
    return metric


def _without_gpus(runtime: EvolutionRuntimeSpec) -> frozenset[Kind]:
    """Kinds of stages that need no GPU, and get none. One that gets some must show its GPU-seconds from the start."""
    own = {Kind.PREPARE: runtime.stages.prepare, Kind.PUBLISH: runtime.stages.publish}
    return frozenset(kind for kind, resources in own.items() if not (resources or runtime.resources).gpus)


def _ended_at(run: Shown) -> datetime | None:
    condition = run.status.condition("Complete" if run.status.state == "Complete" else "Failed")
    over = run.status.state in ("Complete", "Failed") and condition is not None
    return _moment(condition.last_transition_time) if over and condition else None


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text) if text else datetime.min.replace(tzinfo=UTC)
