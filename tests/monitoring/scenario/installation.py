"""The operator's own metrics, as its real code makes them in the scenario, and who it was from when to when."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from monitoring.scenario.cast import CURRENCY, PRICES, STORIES
from monitoring.scenario.story import Story, moment

from evolution.api.runtime import EvolutionRuntimeSpec
from evolution.api.status import Condition, CurrentStage, EvolutionRunStatus
from evolution.metrics.families import RESOURCES
from evolution_operator.cache import Cache
from evolution_operator.metrics import Metrics
from evolution_operator.parse import schedule_record
from evolution_operator.records import RunKey, RunRecord, RuntimeKey
from evolution_operator.settings import Settings
from evolution_operator.showing import Shown
from evolution_operator.watch_news import WatchNews

STEP = timedelta(minutes=5)
"""Time between two scrapes."""
NAMESPACE = "evolution-system"
"""Where the operator lives: a label of its target."""


@dataclass(frozen=True)
class Process:
    """One process of the operator, from its first to its last scrape."""

    pod: str
    instance: str
    first: str
    last: str


PROCESSES = (
    Process("operator-a", "10.0.0.7:8080", "00:00", "12:05"),
    Process("operator-b", "10.0.0.8:8080", "12:00", "23:25"),  # a rollout, in which both were there for two scrapes
    Process("operator-b", "10.0.0.8:8080", "23:40", "26:00"),  # its container was started again
)

SILENT_SINCE = "25:50"
"""Since then no watch told of pods, while all other kinds were told of at every scrape."""
DAMAGED = {"25:30": ("team-legal", "damaged"), "25:35": ("team-med", "vanished"), "25:45": ("team-med", "vanished")}

STALLED_SINCE = "25:30"
"""Since then the last three runs of a schedule had failed; the other schedule waited for its next time all along."""


@dataclass
class _Waiting:
    """A queue in which two runs wait, the older one for four seconds. (In a real one, the time is that of the test.)"""

    depth: int = 2
    oldest_age: float = 4.0


@dataclass
class Scene:
    """What one process of the operator serves, scrape by scrape."""

    process: Process
    now: datetime = field(init=False)

    def __post_init__(self) -> None:
        self.now = moment(self.process.first)
        self._cache, self._requests = Cache(), dict[tuple[str, str, int], int]()
        self._news = WatchNews(lambda: self.now.timestamp())
        settings = Settings(store="file:///store", gpu_prices=tuple(PRICES.items()), currency=CURRENCY)
        self._metrics = Metrics(settings, self._cache, self._requests, self._news, lambda: self.now)
        self._metrics.begins(_Waiting())
        self._reconciled = self._metrics.handled("reconcile")
        self._resynced = self._metrics.handled("resync")

    def pages(self) -> Iterator[tuple[datetime, str]]:
        """Each scrape's moment and text."""
        before = self.now
        while self.now <= moment(self.process.last):
            for story in STORIES:
                self._see(story, before)
            for name in ("weekly", "nightly"):
                self._cache.upsert(schedule_record(self._schedule(name)))
            self._work(first=self.now == before)
            page, _ = self._metrics.page("text/plain")
            yield self.now, page.decode()
            before, self.now = self.now, self.now + STEP

    def _see(self, story: Story, before: datetime) -> None:
        key = RunKey(story.namespace, story.name)
        if not story.exists(self.now):
            if story.exists(before):
                self._metrics.gone(key)
                self._cache.forget(self._record(story))
            return
        self._cache.upsert(self._record(story))
        figures = story.figures(self.now)
        shown = Shown(
            run=figures.run,
            graph=figures.graph,
            ledger=figures.ledger,
            status=_status(story, self.now),
            runtime=EvolutionRuntimeSpec(image="trainer", gpuClass=story.gpu_class, queueName=story.queue),
            progressed_at=figures.progressed_at,
        )
        self._metrics.shown(key, shown)
        for attempt in story.attempts(self.now):
            if attempt.ended_at and before < datetime.fromisoformat(attempt.ended_at):
                self._metrics.ended(story.namespace, attempt, "applied" if attempt.tally else "missing")

    def _record(self, story: Story) -> RunRecord:
        return RunRecord(
            key=RunKey(story.namespace, story.name),
            uid=f"{story.name}-{story.created}",
            resource_version=str(round(self.now.timestamp())),
            generation=1,
            deleting=False,
            runtime=RuntimeKey("ClusterEvolutionRuntime", "", "default"),
            intent=0,
            body=b"",
            created_at=moment(story.created).isoformat(),
            phase=story.state(self.now),
            ended_at="",
        )

    def _schedule(self, name: str) -> dict[str, Any]:
        stalled = name == "nightly" and self.now >= moment(STALLED_SINCE)
        version = str(round(self.now.timestamp()))
        return {
            "metadata": {"namespace": "team-legal", "name": name, "uid": name, "resourceVersion": version},
            "status": {"summary": "Stalled: RunsFail" if stalled else "Waiting"},
        }

    def _work(self, *, first: bool) -> None:
        """What the operator does between two scrapes, always the same."""
        for plural in RESOURCES:
            if plural != "pods" or self.now <= moment(SILENT_SINCE):
                self._news.told(plural)
        if not first:
            self._times(9, lambda: self._reconciled(0.2, True))
            self._times(1, lambda: self._reconciled(0.2, False))
            self._times(1, lambda: self._resynced(0.02, True))
            self._times(30, lambda: self._metrics.asked("manifest", "ok"))
            self._times(3, lambda: self._metrics.asked("progress", "timeout"))
        for request, count in {("list", "jobs", 200): 60, ("patch", "evolutionruns", 409): 3}.items():
            self._requests[request] = self._requests.get(request, 0) + (0 if first else count)
        damaged = next((what for at, what in DAMAGED.items() if moment(at) == self.now), None)
        if damaged:
            self._metrics.verify_failed(*damaged)

    @staticmethod
    def _times(count: int, do: Callable[[], None]) -> None:
        for _ in range(count):
            do()


def _status(story: Story, now: datetime) -> EvolutionRunStatus:
    state = story.state(now)
    if state not in ("Complete", "Failed"):
        under_way = [attempt for attempt in story.attempts(now) if not attempt.ended_at]
        current = tuple(CurrentStage(round=attempt.round, stage=attempt.kind) for attempt in under_way)
        return EvolutionRunStatus(state=state, current=current)
    since = moment(list(story.states)[-1]).isoformat()
    over = Condition(type=state, status="True", reason="Ended", last_transition_time=since)
    return EvolutionRunStatus(state=state, conditions=(over,))
