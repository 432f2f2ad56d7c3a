"""Several runs in one store, one after the other by one worker, which reads a common model once."""

from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from evolution.api.runtime import EngineSettings
from evolution.decide import Plan
from evolution.local.places import StoredRun
from evolution.local.runner import Audience, Runner
from evolution.local.worker import Worker
from evolution.plan.graph import Graph


@dataclass
class Series:
    """Does runs to their end; ends the worker when it is left."""

    engine: EngineSettings = field(default_factory=EngineSettings)
    worker: Worker | None = None
    given_up: dict[str, str] = field(default_factory=dict)
    """Recipes of stages that failed for good, and the run in which they did."""
    told: set[str] = field(default_factory=set)
    """Warnings of stages of any run."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.worker:
            self.worker.stop()

    def hopeless(self, graph: Graph) -> str | None:
        """Why a run cannot be completed: a stage of it failed in an earlier run. None if nothing speaks against it."""
        for stage in graph.stages:
            if not stage.done and stage.recipe in self.given_up:
                return f"{stage.id} is the same as in {self.given_up[stage.recipe]}, where it failed"
        return None

    def run(self, local: StoredRun, audience: Audience) -> Plan:
        """Work until nothing of this run is left to do; see `Runner.work`."""
        runner = Runner(local, audience, worker=self.worker, engine=self.engine, told=self.told)
        try:
            plan = runner.work()
        finally:
            self.worker = runner.worker
        for stage in plan.graph.stages if plan.graph else ():
            if stage.fingerprint in runner.failures:
                self.given_up[stage.recipe] = local.run.metadata.name
        return plan
