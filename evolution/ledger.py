"""The ledger of a run: every GPU-second that it held, in exactly one class. Pure.

An *attempt* is one worker's hold of its GPUs: a pod from the moment a node was given to it until its end, or on a
laptop one order. Attempts come from pod times and from the workers' own tallies; the ledger is kept with the run's
history in the store, so that nothing depends on what a process remembers.

Whole milliseconds throughout. What an attempt held is divided when it ends, once and for good: sums only grow, as
Prometheus expects of counters. Work that a checkpoint has saved is the one thing that is decided later: it is
productive once its stage is committed, and wasted once nobody wants the stage any more; until then it is *unsettled*,
as are attempts that are still under way. At any time, the classes and what is unsettled add up to what is allocated.

The classes follow Google's goodput badput types (ml-goodput-measurement), with one class for each remedy.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Literal, Self, get_args

from evolution.api.run import EvolutionRunSpec
from evolution.plan.gate import Verdict, after_round
from evolution.plan.graph import Graph
from evolution.plan.manifest import Record
from evolution.plan.stage import Kind
from evolution.plan.tally import Spending, Tally

Class = Literal["productive", "cold_start_image", "cold_start_model", "io", "checkpoint", "wasted", "idle"]
CLASSES: tuple[Class, ...] = get_args(Class)
Result = Literal["succeeded", "retryable", "permanent", "preempted", "lost", "stopped"]
RESULTS: tuple[Result, ...] = get_args(Result)
"""How an attempt ended: all committed; failed and worth another try; failed for good; evicted, preempted or
interrupted; gone without a word; ended by us, because the run was suspended, edited or deleted.
"""

REMEMBERED_ATTEMPTS = 500
"""Ended attempts that are kept one by one; of older ones the sums are."""
CLOCK_MILLISECONDS = 1000
"""Kubernetes tells whole seconds: a container may have run for so much longer than its times say."""

Milliseconds = dict[Class, int]


class Attempt(Record):
    """One worker's hold of its GPUs. Times are RFC 3339, empty where there is none (yet)."""

    worker: str
    """Uid of the pod; on a laptop an invented name."""
    job: str = ""
    kind: Kind
    """Of the first stage of its order."""
    round: int
    gpus: int
    queued_at: str
    """Since when the worker was wanted."""
    allocated_at: str = ""
    """When it was given a node, and with it the GPUs."""
    started_at: str = ""
    """When its process started: the image was there."""
    ended_at: str = ""
    result: Result | None = None
    """None while it is under way."""
    tally: Tally | None = None
    """Its own words; the last ones once it has ended."""
    fate: Literal["", "Kept", "Abandoned"] = ""
    """What became of the work that it saved."""

    def held(self, now: datetime) -> int:
        """Milliseconds for which it has held its GPUs, `now` being used while it is under way."""
        if not self.allocated_at:
            return 0
        if not self.ended_at:
            return max(0, _between(self.allocated_at, now))
        return self._image() + self._ran()

    def waited(self, now: datetime) -> int:
        """Milliseconds for which it waited for a node."""
        until = self.allocated_at or self.ended_at
        return max(0, _between(self.queued_at, datetime.fromisoformat(until) if until else now))

    def classes(self) -> dict[Kind, Milliseconds]:
        """Milliseconds by kind of stage and class, as far as that is settled.

        Before the end, that is what it spent on stages that it has committed.
        """
        found: dict[Kind, Milliseconds] = {}
        spent = self._spent()
        for kind, spending in spent.items():
            _add(found, kind, "productive", spending.productive)
            _add(found, kind, "cold_start_model", spending.load)
            _add(found, kind, "io", spending.io)
            _add(found, kind, "checkpoint", spending.checkpoint)
            _add(found, kind, "idle", spending.idle)
            if self.ended_at:
                _add(found, kind, "wasted", spending.wasted)
                if self.fate:
                    _add(found, kind, "productive" if self.fate == "Kept" else "wasted", spending.saved)
        if self.ended_at and self.allocated_at:
            useful = any(spending.productive or spending.saved for spending in spent.values())
            rest = self._ran() - sum(spending.milliseconds for spending in spent.values())
            startup = min(rest, self._startup())
            _add(found, self.kind, "cold_start_image" if useful else "wasted", self._image())
            _add(found, self.kind, "cold_start_model" if useful else "wasted", startup)
            _add(found, self.kind, "idle" if self.result == "succeeded" and useful else "wasted", rest - startup)
        return found

    @property
    def saved(self) -> int:
        """Milliseconds of work that is neither productive nor wasted yet."""
        if not self.ended_at or self.fate:
            return 0
        return sum(spending.saved for spending in self._spent().values())

    def _image(self) -> int:
        until = self.started_at or self.ended_at
        return max(0, _between(self.allocated_at, datetime.fromisoformat(until)))

    def _ran(self) -> int:
        """Milliseconds from the start of its process to its end, by the times of the pod, or a little more if its own
        clock, which is finer, says so.
        """
        if not self.started_at:
            return 0
        ran = max(0, _between(self.started_at, datetime.fromisoformat(self.ended_at)))
        told = self.tally.milliseconds if self.tally else 0
        return max(ran, min(told, ran + CLOCK_MILLISECONDS))

    def _startup(self) -> int:
        if not (self.tally and self.tally.started_at and self.started_at):
            return 0
        return max(0, _between(self.started_at, datetime.fromisoformat(self.tally.started_at)))

    def _spent(self) -> dict[Kind, Spending]:
        """What it told, cut down where it told of more than there was."""
        if not self.tally:
            return {}
        told = self.tally.milliseconds
        if not self.ended_at or told <= (ran := self._ran() if self.allocated_at else 0):
            return self.tally.spent
        return _scaled(self.tally.spent, ran, told)


class Ledger(Record):
    """All attempts of a run, and what they add up to."""

    attempts: tuple[Attempt, ...] = ()
    """Oldest first; the newest `REMEMBERED_ATTEMPTS`, and all that are not settled."""
    older: dict[Kind, dict[Class, int]] = {}
    """GPU-milliseconds of older ones, by kind and class."""
    older_results: dict[Kind, dict[Result, int]] = {}
    older_output: dict[Kind, Spending] = {}
    """Tokens, rows and bytes of older ones."""
    older_waited: int = 0
    """GPU-milliseconds."""
    older_rounds: dict[int, int] = {}
    """GPU-milliseconds held, by round."""
    evaluated: dict[str, Literal["promoted", "rejected"]] = {}
    """Rounds that were evaluated, by the first 16 digits of the evaluation's fingerprint: promoted if it became the
    best one."""

    def noting(self, attempts: Iterable[Attempt]) -> Self:
        """With what is known now of these attempts; one that has ended stays as it was."""
        known = {attempt.worker: attempt for attempt in self.attempts}
        for attempt in attempts:
            before = known.get(attempt.worker)
            if before is None or not before.ended_at:
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

    @property
    def open(self) -> tuple[Attempt, ...]:
        """Attempts under way."""
        return tuple(attempt for attempt in self.attempts if not attempt.ended_at)

    def gpu_milliseconds(self) -> dict[Kind, Milliseconds]:
        """What is settled, by kind of stage and class."""
        found = {kind: dict(classes) for kind, classes in self.older.items()}
        for attempt in self.attempts:
            for kind, classes in attempt.classes().items():
                for class_, value in classes.items():
                    _add(found, kind, class_, value * attempt.gpus)
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
        older = sum(sum(classes.values()) for classes in self.older.values())
        return older + sum(attempt.held(now) * attempt.gpus for attempt in self.attempts)

    def unsettled(self, now: datetime) -> int:
        """GPU-milliseconds that are in no class yet."""
        return self.allocated(now) - sum(self.by_class().values())

    def queued(self, now: datetime) -> int:
        """GPU-milliseconds for which GPUs were waited for; they were not held, and are in no class."""
        return self.older_waited + sum(attempt.waited(now) * attempt.gpus for attempt in self.attempts)

    def held_in_round(self, now: datetime) -> dict[int, int]:
        """GPU-milliseconds by round; an order of several rounds counts in its first."""
        found = dict(self.older_rounds)
        for attempt in self.attempts:
            found[attempt.round] = found.get(attempt.round, 0) + attempt.held(now) * attempt.gpus
        return found

    def results(self) -> dict[Kind, dict[Result, int]]:
        """Number of ended attempts, by kind of stage and how they ended."""
        found = {kind: dict(counts) for kind, counts in self.older_results.items()}
        for attempt in self.attempts:
            if attempt.result:
                counts = found.setdefault(attempt.kind, {})
                counts[attempt.result] = counts.get(attempt.result, 0) + 1
        return found

    def output(self) -> dict[Kind, Spending]:
        """Tokens, rows and bytes of committed stages, by kind."""
        found = dict(self.older_output)
        for attempt in self.attempts:
            for kind, spending in attempt.tally.spent.items() if attempt.tally else ():
                found[kind] = found.get(kind, Spending()) + spending
        return found

    def _with(self, attempts: Iterable[Attempt]) -> Self:
        kept = list(attempts)
        spare = len(kept) - REMEMBERED_ATTEMPTS
        folded = [a for a in kept[: max(spare, 0)] if a.ended_at and not a.saved]
        if not folded:
            return self.model_copy(update={"attempts": tuple(kept)})
        old = Ledger(
            attempts=tuple(folded),
            older=self.older,
            older_results=self.older_results,
            older_output=self.older_output,
            older_waited=self.older_waited,
            older_rounds=self.older_rounds,
        )
        never = datetime.max  # none of them is under way
        gone = {attempt.worker for attempt in folded}
        return self.model_copy(
            update={
                "attempts": tuple(attempt for attempt in kept if attempt.worker not in gone),
                "older": old.gpu_milliseconds(),
                "older_results": old.results(),
                "older_output": old.output(),
                "older_waited": old.queued(never),
                "older_rounds": old.held_in_round(never),
            }
        )


def _evaluated(spec: EvolutionRunSpec, graph: Graph) -> dict[str, Literal["promoted", "rejected"]]:
    """Of all rounds up to the first one that is not evaluated, in their order."""
    evaluations = {stage.round: stage.manifest for stage in graph.stages if stage.kind is Kind.EVALUATE}
    found: dict[str, Literal["promoted", "rejected"]] = {}
    verdict = Verdict()
    for round_, manifest in sorted(evaluations.items()):
        if manifest is None:
            break
        verdict = after_round(spec.gate, verdict, round_, manifest.scores[spec.gate_metric])
        if round_ > 0:
            found[manifest.fingerprint[:16]] = "promoted" if verdict.best == round_ else "rejected"
    return found


def _add(sums: dict[Kind, Milliseconds], kind: Kind, class_: Class, value: int) -> None:
    if value:
        classes = sums.setdefault(kind, {})
        classes[class_] = classes.get(class_, 0) + value


def _between(start: str, end: datetime) -> int:
    since = datetime.fromisoformat(start)
    return round((end - since).total_seconds() * 1000)


_TIMES = ("productive", "load", "checkpoint", "io", "idle", "saved", "wasted")


def _scaled(spent: Mapping[Kind, Spending], held: int, told: int) -> dict[Kind, Spending]:
    """The same in `held` instead of `told` milliseconds; what rounding leaves over is in the first one that counts."""
    scaled = {
        kind: spending.model_copy(update={name: getattr(spending, name) * held // told for name in _TIMES})
        for kind, spending in spent.items()
    }
    over = held - sum(spending.milliseconds for spending in scaled.values())
    for kind, name in _told(spent):
        scaled[kind] = scaled[kind].model_copy(update={name: getattr(scaled[kind], name) + over})
        break
    return scaled


def _told(spent: Mapping[Kind, Spending]) -> Iterator[tuple[Kind, str]]:
    return ((kind, name) for kind, spending in spent.items() for name in _TIMES if getattr(spending, name))
