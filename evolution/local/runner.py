"""Carrying a plan out on this machine: decide, do the most urgent stage, decide again."""

import contextlib
import os
import re
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from evolution.api.runtime import EngineSettings
from evolution.attempt import Attempt
from evolution.decide import PERMANENT, Plan
from evolution.ledger import Ledger
from evolution.local.attempts import begun, ended, lost, result_of, tally_in
from evolution.local.observe import settle
from evolution.local.places import StoredRun
from evolution.local.worker import Worker
from evolution.observation import Failure, Observation
from evolution.plan.graph import Stage
from evolution.plan.manifest import Manifest
from evolution.plan.order import Compute, Order, order_stage
from evolution.plan.tally import Tally
from evolution.plan.worker import Committed, Event, ExitCode, Failed, OrderDone
from evolution.store import keys
from evolution.store.artifacts import ArtifactDamaged
from evolution.store.base import StoreError
from evolution.store.history import read_history, write_history


class Audience(Protocol):
    """Whoever watches a run: the terminal, a test."""

    def planned(self, plan: Plan) -> None:
        """A new decision was made."""

    def happened(self, event: Event) -> None:
        """The worker said something."""

    def warned(self, message: str) -> None:
        """Something went wrong that the run gets over by itself."""


@dataclass
class Runner:
    """One run, driven to its end by one resident worker: its own, or the one that `worker` names."""

    local: StoredRun
    audience: Audience
    known: dict[str, Manifest | None] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)
    ledger: Ledger = field(default_factory=Ledger)
    worker: Worker | None = None
    engine: EngineSettings = field(default_factory=EngineSettings)
    orders: int = 0
    """Given to workers so far."""
    told: set[str] = field(default_factory=set)
    """Warnings of stages so far, without their numbers: each is told once, the report has them all."""
    mlflow_uri: str = field(default_factory=lambda: os.environ.get("MLFLOW_TRACKING_URI", ""))

    def run(self) -> Plan:
        """Work until nothing is left to do, then end the worker; see `work`."""
        try:
            return self.work()
        finally:
            if self.worker:
                self.worker.stop()

    def work(self) -> Plan:
        """Work until nothing is left to do: complete, suspended or failed. The last plan says which.

        `worker` is left to the caller, for the next run.

        Raises:
            StoreError: the store cannot be read or written.
        """
        history = read_history(self.local.artifacts.store, self.local.id)
        store = self.local.artifacts.store
        self.ledger = lost(history.ledger, self.local.id, store) if history else Ledger()
        plan = Plan(status=history.status) if history else Plan()
        while True:
            plan = self._decide(plan)
            if plan.start:
                self._execute(plan.start[0], plan)
            elif plan.requeue_after is not None:
                time.sleep(plan.requeue_after)
            else:
                return plan

    def _decide(self, before: Plan) -> Plan:
        plan = settle(self.local.run, self.known, self._observation(before), self._look_up)
        assert plan.graph is not None
        judged = self.ledger.judging(self.local.run.spec, plan.graph)
        if judged != self.ledger:
            self.ledger = judged
            plan = settle(self.local.run, self.known, self._observation(before), self._look_up)
        self._write_history(plan)
        self.audience.planned(plan)
        return plan

    def _write_history(self, plan: Plan) -> None:
        assert plan.graph is not None
        write_history(
            self.local.artifacts.store,
            self.local.id,
            self.local.run,
            plan.graph,
            plan.status,
            failures=self.failures,
            ledger=self.ledger,
        )

    def _look_up(self, fingerprint: str) -> Manifest | None:
        """A manifest of the store; one that cannot be read is forgotten, so that its stage is done again."""
        try:
            return self.local.artifacts.manifest(fingerprint)
        except ArtifactDamaged as damage:
            self.local.artifacts.forget(fingerprint)
            self.audience.warned(f"{damage}; its stage is done again")
            return None

    def _observation(self, before: Plan) -> Observation:
        return Observation(
            manifests=self.known,
            now=datetime.now(UTC),
            failures=self.failures,
            ledger=self.ledger,
            previous=before.status,
            history_uri=f"{self.local.artifacts.store.uri}/{keys.history(self.local.id)}",
        )

    def _execute(self, stage: Stage, plan: Plan) -> None:
        """Have the worker do `stage`; what came of it is in `known` or `failures`, and in the ledger, afterwards."""
        assert stage.fingerprint is not None
        before = self.failures.get(stage.fingerprint)
        order = Order(
            run=self.local.id,
            store=self.local.artifacts.store.uri,
            model=self.local.run.spec.model.uri,
            stages=(order_stage(stage, attempt=before.count + 1 if before else 1),),
            compute=Compute(
                engine=self.engine.name,
                endpoint=self.engine.endpoint,
                reporters=self.local.run.spec.training.reporters,
                mlflow_uri=self.mlflow_uri,
            ),
        )
        asked = datetime.now(UTC)
        self.worker = self.worker or Worker(self.local.log)
        self.orders += 1
        attempt = begun(self.worker.name, self.orders, stage, asked)
        self._note(attempt)
        self._write_history(plan)
        last: Event | None = None
        tally: Tally | None = None
        try:
            for event in self.worker.execute(order):
                last, tally = event, tally_in(event) or tally
                if tally and tally.gpus > attempt.gpus:  # known once it has loaded what sees them
                    attempt = attempt.model_copy(update={"gpus": tally.gpus})
                    self._note(attempt)
                    self._write_history(plan)
                self.audience.happened(event)
                if isinstance(event, Committed):
                    self._committed(event)
        except BaseException:  # Ctrl-C: what the worker says while it ends is part of what it spent
            told = [tally_in(event) for event in self._end_worker()]
            self._note(ended(attempt, "preempted", next(filter(None, reversed(told)), tally)))
            with contextlib.suppress(StoreError):
                self._write_history(plan)
            raise
        if isinstance(last, OrderDone):
            self._note(ended(attempt, "succeeded", tally))
            return
        failed = last if isinstance(last, Failed) else _death(self.worker.exit_code(), self.worker.log)
        self._end_worker()
        self._note(ended(attempt, result_of(failed), tally))
        self._failed(stage, failed)

    def _note(self, attempt: Attempt) -> None:
        self.ledger = self.ledger.noting([attempt])

    def _end_worker(self) -> list[Event]:
        """What it still said."""
        assert self.worker is not None
        said = self.worker.stop()
        self.worker = None
        return said

    def _committed(self, event: Committed) -> None:
        manifest = event.manifest
        self.known[manifest.fingerprint] = manifest
        self.failures.pop(manifest.fingerprint, None)
        for warning in manifest.warnings:
            kind = re.sub(r"\d+", "", warning)
            if kind not in self.told:
                self.told.add(kind)
                self.audience.warned(f"{event.stage}: {warning}")

    def _failed(self, stage: Stage, failed: Failed) -> None:
        assert stage.fingerprint is not None
        if failed.reason == "ArtifactDamaged" and self._discard_damaged(stage):
            return
        before = self.failures.get(stage.fingerprint)
        counted = 0 if failed.code == ExitCode.PREEMPTED else 1
        failure = Failure(
            count=(before.count if before else 0) + counted,
            code=failed.code,
            reason=failed.reason,
            message=failed.message,
            at=datetime.now(UTC),
        )
        self.failures[stage.fingerprint] = failure
        if failed.code not in PERMANENT:  # a permanent one is told when the run ends with it
            self.audience.warned(f"{stage.id}: {failed.message}")

    def _discard_damaged(self, stage: Stage) -> bool:
        """Forget the stages whose output is missing or damaged, so that they run again; False if none is."""
        wanted = {source.digest for source in stage.inputs.values()}
        found = False
        for fingerprint, manifest in list(self.known.items()):
            if manifest is None or not any(output.digest in wanted for output in manifest.outputs.values()):
                continue
            damaged = self.local.artifacts.verify(manifest)
            if damaged:
                self.local.artifacts.discard(manifest, damaged=[damage.digest for damage in damaged])
                self.known[fingerprint] = None
                found = True
                for damage in damaged:
                    self.audience.warned(f"{damage}; {manifest.kind.value} of round {manifest.round} is done again")
        return found


def _death(code: int, log: Path) -> Failed:
    killed = f"was killed by signal {code - 128}" if code > 128 else f"ended with exit code {code}"
    return Failed(code=code, reason="WorkerDied", message=f"the worker {killed}; its output: {log}")
