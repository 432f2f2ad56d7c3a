"""The operator's metrics without the operator: told of runs as the reconciler tells, and read as Prometheus reads."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from prometheus_client.parser import text_string_to_metric_families
from shown_run import START

from evolution.api.runtime import Deadlines, EvolutionRuntimeSpec
from evolution.api.status import Condition
from evolution.metrics.run_samples import RunFigures
from evolution_operator.cache import Cache
from evolution_operator.metrics import Metrics
from evolution_operator.parse import run_record, schedule_record
from evolution_operator.records import RunKey
from evolution_operator.settings import Settings
from evolution_operator.showing import Shown
from evolution_operator.watch_news import WatchNews

RUNTIME = EvolutionRuntimeSpec(image="trainer:1", gpu_class="h100", queue_name="gpus", deadlines=Deadlines(idle="1h"))

Labels = frozenset[tuple[str, str]]


@dataclass
class Clock:
    now: datetime = START

    def __call__(self) -> datetime:
        return self.now


@dataclass
class Told:
    settings: Settings
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    requests: Counter[tuple[str, str, int]] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.cache = Cache()
        self.news = WatchNews(lambda: self.clock().timestamp())
        self.metrics = Metrics(self.settings, self.cache, self.requests, self.news, self.clock)
        self._versions = 0

    def knows(self, figures: RunFigures, created_at: datetime = START, ended_at: datetime | None = None) -> Shown:
        """The run is in the cluster; what the reconciler would tell of it."""
        meta, status = figures.run.metadata, figures.status
        if ended_at is not None:
            done = Condition(type="Complete", status="True", reason="MaxRounds", last_transition_time=_text(ended_at))
            status = status.model_copy(update={"state": "Complete", "conditions": (done,), "current": ()})
        self._versions += 1
        body = {
            "metadata": {
                "name": meta.name,
                "namespace": meta.namespace,
                "uid": f"uid of {meta.namespace}/{meta.name}",
                "resourceVersion": str(self._versions),
                "creationTimestamp": _text(created_at),
            },
            "spec": figures.run.spec.model_dump(by_alias=True, mode="json"),
            "status": status.model_dump(by_alias=True, mode="json"),
        }
        self.cache.upsert(run_record(body))
        return Shown(figures.run, figures.graph, figures.ledger, status, RUNTIME, figures.progressed_at)

    def tell(self, figures: RunFigures, created_at: datetime = START, ended_at: datetime | None = None) -> None:
        """The run stands so now; one that has ended is told of if it is wanted."""
        key = RunKey(figures.run.metadata.namespace, figures.run.metadata.name)
        shown = self.knows(figures, created_at, ended_at)
        if ended_at is None or self.metrics.wants(key, ended_at):
            self.metrics.shown(key, shown)

    def knows_schedule(self, name: str, summary: str, namespace: str = "team") -> None:
        """The schedule is in the cluster, and its State column says this."""
        self._versions += 1
        metadata = {"name": name, "namespace": namespace, "uid": name, "resourceVersion": str(self._versions)}
        self.cache.upsert(schedule_record({"metadata": metadata, "spec": {}, "status": {"summary": summary}}))

    def series(self, name: str) -> dict[Labels, float]:
        """The values of a metric by their labels."""
        page = self.metrics.page("")[0].decode()
        samples = (sample for family in text_string_to_metric_families(page) for sample in family.samples)
        return {frozenset(s.labels.items()): s.value for s in samples if s.name == name}

    def value(self, name: str, **labels: str) -> float:
        """Of the one series that has these labels, besides others."""
        (found,) = [value for of, value in self.series(name).items() if labels.items() <= dict(of).items()]
        return found

    def runs(self) -> set[str]:
        """Names of the runs that are shown one by one."""
        return {dict(labels)["run"] for labels in self.series("evolution_run_info")}


def _text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
