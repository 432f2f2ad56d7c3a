"""The ledger of a run: every GPU-second that it held, in exactly one class. Pure.

An *attempt* is one worker's hold of its GPUs: a pod from the moment a node was given to it until its end, or on a
laptop one order. Attempts come from pod times and from the workers' own tallies; the ledger is kept with the run's
history in the store, so that nothing depends on what a process remembers.

Whole milliseconds throughout. While an attempt is under way, the stages that it has committed count, and all else that
it holds is *unsettled*; when it ends, that is divided, once and for good: sums only grow, as Prometheus expects of
counters. Work that a checkpoint has saved is the one thing that is decided later: it is productive once its stage is
committed, and wasted once nobody wants the stage any more; until then it is unsettled, too. At any time, the classes
and what is unsettled add up to what is allocated.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal, Self

from evolution.api.run import EvolutionRunSpec
from evolution.attempt import CLASSES, NEVER, Attempt, EndedAttempt, Milliseconds, Result, add
from evolution.plan import gate
from evolution.plan.graph import Graph
from evolution.plan.manifest import Record
from evolution.plan.stage import Kind, sha256
from evolution.plan.tally import Spending

REMEMBERED_ATTEMPTS = 100
"""Settled attempts that are kept one by one."""
Verdict = Literal["promoted", "rejected"]


@dataclass(frozen=True, slots=True)
class Held:
    """Milliseconds that settled attempts add up to."""

    classes: dict[Kind, Milliseconds] = field(default_factory=dict)
    waited: int = 0
    rounds: dict[int, int] = field(default_factory=dict)
    """Held, by round."""


@dataclass(frozen=True, slots=True)
class Totals:
    """What settled attempts add up to."""

    gpus: Held = Held()
    """GPU-milliseconds."""
    workers: Held = Held()
    """Milliseconds of workers that held no GPU."""
    results: dict[Kind, dict[Result, int]] = field(default_factory=dict)
    """Number of attempts."""
    output: dict[Kind, Spending] = field(default_factory=dict)
    """Tokens, rows and bytes."""


class Ledger(Record):
    """All attempts of a run, and what they add up to."""

    attempts: tuple[Attempt, ...] = ()
    """Oldest first: under way, or ended with saved work of which nobody knows yet whether it will be used."""
    settled: tuple[EndedAttempt, ...] = ()
    """The newest `REMEMBERED_ATTEMPTS` of all others, in the order in which they were settled."""
    totals: Totals = Totals()
    """Of all settled attempts, those that are no longer kept included."""
    forgotten: tuple[str, ...] = ()
    """Digests of the workers of attempts that are no longer kept, so that none of them is counted twice."""
    evaluated: dict[str, Verdict] = {}
    """Rounds that were evaluated, by the first 16 digits of the evaluation's fingerprint: promoted if it became the
    best one."""

    def noting(self, attempts: Iterable[Attempt]) -> Self:
        """With what is known now of these attempts; one that has ended stays as it was."""
        news = list(attempts)
        known = {attempt.worker: attempt for attempt in self.attempts}
        closed = self.closed(attempt.worker for attempt in news)
        for attempt in news:
            before = known.get(attempt.worker)
            if before is not None:
                known[attempt.worker] = before.noting(attempt)
            elif attempt.worker not in closed:
                known[attempt.worker] = attempt
        return self._with(known.values())

    def settling(self, done: Collection[str], wanted: Collection[str]) -> Self:
        """With the fate of saved work decided: `done` are fingerprints of committed stages, `wanted` of others."""

        def decided(attempt: Attempt) -> Attempt:
            if not attempt.saved or attempt.tally is None:
                return attempt
            if attempt.tally.unfinished in done:
                return attempt.model_copy(update={"fate": "Kept"})
            if attempt.tally.unfinished not in wanted:
                return attempt.model_copy(update={"fate": "Abandoned"})
            return attempt

        return self._with(decided(attempt) for attempt in self.attempts)

    def judging(self, spec: EvolutionRunSpec, graph: Graph) -> Self:
        """With what the graph of the run decides: the fate of saved work, and which rounds were promoted."""
        done = frozenset(stage.fingerprint for stage in graph.stages if stage.fingerprint and stage.done)
        wanted = frozenset(stage.fingerprint for stage in graph.stages if stage.fingerprint and not stage.done)
        settled = self.settling(done, wanted)
        return settled.model_copy(update={"evaluated": {**_evaluated(spec, graph), **self.evaluated}})

    def closed(self, workers: Iterable[str]) -> frozenset[str]:
        """Those of `workers` whose attempts have ended, attempts that are no longer kept included."""
        ended = {attempt.worker for attempt in self.ended}
        forgotten = frozenset(self.forgotten)
        return frozenset(w for w in workers if w in ended or (forgotten and _digest(w) in forgotten))

    @property
    def ended(self) -> tuple[EndedAttempt, ...]:
        """Attempts that have ended, as far as they are kept."""
        return (*self.settled, *(attempt.ended() for attempt in self.attempts if attempt.ended_at))

    @property
    def open(self) -> tuple[Attempt, ...]:
        """Attempts under way."""
        return tuple(attempt for attempt in self.attempts if not attempt.ended_at)

    @property
    def gpus(self) -> int:
        """GPUs that are held at the moment."""
        return sum(attempt.gpus for attempt in self.open if attempt.allocated_at)

    def gpu_milliseconds(self) -> dict[Kind, Milliseconds]:
        """What is settled, by kind of stage and class."""
        found = {kind: dict(classes) for kind, classes in self.totals.gpus.classes.items()}
        for attempt in self.attempts:
            for kind, classes in attempt.classes().items():
                for class_, value in classes.items():
                    add(found, kind, class_, value * attempt.gpus)
        return found

    def by_class(self) -> Milliseconds:
        """GPU-milliseconds that are settled, of every class."""
        sums: Milliseconds = dict.fromkeys(CLASSES, 0)
        for classes in self.gpu_milliseconds().values():
            for class_, value in classes.items():
                sums[class_] += value
        return sums

    def allocated(self, now: datetime) -> int:
        """GPU-milliseconds that all attempts have held so far: what a budget counts."""
        settled = sum(sum(classes.values()) for classes in self.totals.gpus.classes.values())
        return settled + sum(attempt.held(now) * attempt.gpus for attempt in self.attempts)

    def unsettled(self, now: datetime) -> int:
        """GPU-milliseconds that are in no class yet."""
        return self.allocated(now) - sum(self.by_class().values())

    def queued(self, now: datetime) -> int:
        """GPU-milliseconds for which GPUs were waited for; they were not held, and are in no class."""
        return self.totals.gpus.waited + sum(attempt.waited(now) * attempt.gpus for attempt in self.attempts)

    def held_in_round(self, now: datetime) -> dict[int, int]:
        """GPU-milliseconds by round; an order of several rounds counts in its first."""
        found = dict(self.totals.gpus.rounds)
        for attempt in self.attempts:
            found[attempt.round] = found.get(attempt.round, 0) + attempt.held(now) * attempt.gpus
        return found

    def results(self) -> dict[Kind, dict[Result, int]]:
        """Number of ended attempts, by kind of stage and how they ended."""
        found = {kind: dict(counts) for kind, counts in self.totals.results.items()}
        for attempt in self.attempts:
            if attempt.result:
                counts = found.setdefault(attempt.kind, {})
                counts[attempt.result] = counts.get(attempt.result, 0) + 1
        return found

    def output(self) -> dict[Kind, Spending]:
        """Tokens, rows and bytes of committed stages, by kind."""
        found = dict(self.totals.output)
        for attempt in self.attempts:
            for kind, spending in attempt.tally.spent.items() if attempt.tally else ():
                found[kind] = found.get(kind, Spending()) + spending.outputs
        return found

    def of_workers(self) -> Self:
        """As if every worker that holds no GPU had one: GPU-milliseconds are milliseconds of such workers there."""
        without = (attempt for attempt in self.attempts if not attempt.gpus)
        return self.model_copy(
            update={
                "attempts": tuple(attempt.model_copy(update={"gpus": 1}) for attempt in without),
                "settled": tuple(replace(attempt, gpus=1) for attempt in self.settled if not attempt.gpus),
                "totals": replace(self.totals, gpus=self.totals.workers),
            }
        )

    def _with(self, attempts: Iterable[Attempt]) -> Self:
        """With these attempts, those settled that can be, and the oldest ones forgotten."""
        kept = list(attempts)
        ready = [attempt for attempt in kept if attempt.ended_at and not attempt.saved]
        if not ready:
            return self.model_copy(update={"attempts": tuple(kept)})
        settled = (*self.settled, *(attempt.ended() for attempt in ready))
        gone = settled[: max(len(settled) - REMEMBERED_ATTEMPTS, 0)]
        new = self.model_copy(update={"attempts": tuple(ready)})
        return self.model_copy(
            update={
                "attempts": tuple(attempt for attempt in kept if not attempt.ended_at or attempt.saved),
                "settled": settled[len(gone) :],
                "totals": Totals(new._held(), new.of_workers()._held(), new.results(), new.output()),
                "forgotten": (*self.forgotten, *(_digest(attempt.worker) for attempt in gone)),
            }
        )

    def _held(self) -> Held:
        return Held(
            classes=self.gpu_milliseconds(),
            waited=self.queued(NEVER),
            rounds={round_: held for round_, held in self.held_in_round(NEVER).items() if held},
        )


def _evaluated(spec: EvolutionRunSpec, graph: Graph) -> dict[str, Verdict]:
    """Of all rounds up to the first one that is not evaluated, in their order."""
    evaluations = {stage.round: stage.manifest for stage in graph.stages if stage.kind is Kind.EVALUATE}
    found: dict[str, Verdict] = {}
    standing = gate.Verdict()
    for round_, manifest in sorted(evaluations.items()):
        if manifest is None:
            break
        standing = gate.after_round(spec.gate, standing, round_, manifest.scores[spec.gate_metric])
        if round_ > 0:
            found[manifest.fingerprint[:16]] = "promoted" if standing.best == round_ else "rejected"
    return found


def _digest(worker: str) -> str:
    return sha256(worker.encode())[:16]
