"""The ledger of a run: every GPU-second that it held, in exactly one class. Pure.

An *attempt* is one worker's hold of its GPUs: a pod from the moment a node was given to it until its end, or on a
laptop one order. Attempts come from pod times and from the workers' own tallies; the ledger is kept with the run's
history in the store, so that nothing depends on what a process remembers.

Whole milliseconds throughout. While an attempt is under way, the stages that it has committed count, and all else that
it holds is *unsettled*; when it ends, that is divided, once and for good: sums only grow, as Prometheus expects of
counters. Work that a checkpoint has saved is the one thing that is decided later: it is productive once its stage is
committed, and wasted once nobody wants the stage any more; until then it is unsettled, too. At any time, the classes
and what is unsettled add up to what is allocated.

The classes follow Google's goodput badput types (ml-goodput-measurement), with one class for each remedy.
"""

from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from typing import Literal, Self, get_args

from evolution.api.run import EvolutionRunSpec
from evolution.plan import gate
from evolution.plan.graph import Graph
from evolution.plan.manifest import Record
from evolution.plan.stage import Kind, sha256
from evolution.plan.tally import Spending, Tally

Class = Literal["productive", "cold_start_image", "cold_start_model", "io", "checkpoint", "wasted", "idle"]
CLASSES: tuple[Class, ...] = get_args(Class)
Result = Literal["succeeded", "retryable", "permanent", "preempted", "lost", "stopped"]
RESULTS: tuple[Result, ...] = get_args(Result)
"""How an attempt ended: all committed; failed and worth another try; failed for good; evicted, preempted or
interrupted; gone without a word; ended by us, because the run was suspended, edited or deleted.
"""

REMEMBERED_ATTEMPTS = 500
"""Ended attempts that are kept one by one."""
CLOCK_MILLISECONDS = 1000
"""Kubernetes tells whole seconds: a container may have run for so much longer than its times say."""

Milliseconds = dict[Class, int]
Verdict = Literal["promoted", "rejected"]


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
    settled: bool = False
    """It has ended, and the ledger's sums contain it."""

    def noting(self, news: Self) -> Self:
        """With what is new in `news`; what is known stays known, in whatever order news comes in."""
        if self.ended_at:
            return self
        tallies = [tally for tally in (self.tally, news.tally) if tally]
        update = {
            "gpus": max(self.gpus, news.gpus),
            "allocated_at": self.allocated_at or news.allocated_at,
            "started_at": self.started_at or news.started_at,
            "ended_at": news.ended_at,
            "result": news.result,
            "tally": max(tallies, key=lambda tally: tally.milliseconds, default=None),
        }
        return self.model_copy(update=update)

    def held(self, now: datetime) -> int:
        """Milliseconds for which it has held its GPUs, `now` being used while it is under way."""
        if not self.allocated_at:
            return 0
        if not self.ended_at:
            return max(_between(self.allocated_at, now), self._committed())
        return self._image() + self._ran()

    def waited(self, now: datetime) -> int:
        """Milliseconds for which it waited for a node."""
        until = self.allocated_at or self.ended_at
        return max(0, _between(self.queued_at, datetime.fromisoformat(until) if until else now))

    def classes(self) -> dict[Kind, Milliseconds]:
        """Milliseconds by kind of stage and class, as far as that is settled."""
        found: dict[Kind, Milliseconds] = {}
        if not self.allocated_at:
            return found
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
        if self.ended_at:
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
        if not self.ended_at or not self.allocated_at or self.fate:
            return 0
        return sum(spending.saved for spending in self._spent().values())

    def _start(self) -> str:
        """Its pod's word, or its own if the pod was gone before anybody looked."""
        return self.started_at or (self.tally.started_at if self.tally else "")

    def _image(self) -> int:
        return max(0, _between(self.allocated_at, datetime.fromisoformat(self._start() or self.ended_at)))

    def _ran(self) -> int:
        """Milliseconds from the start of its process to its end, by the times of the pod, or a little more if its own
        clock, which is finer, says so. What it told of committed stages was counted already, and is always believed.
        """
        start, told = self._start(), self._told()
        ran = max(0, _between(start, datetime.fromisoformat(self.ended_at))) if start else 0
        return max(ran, min(told, ran + CLOCK_MILLISECONDS), self._committed())

    def _startup(self) -> int:
        if not (self.tally and self.tally.started_at and self.started_at):
            return 0
        return max(0, _between(self.started_at, datetime.fromisoformat(self.tally.started_at)))

    def _told(self) -> int:
        return self.tally.milliseconds if self.tally else 0

    def _committed(self) -> int:
        spent = self.tally.spent.values() if self.tally else ()
        return sum(spending.milliseconds - spending.saved - spending.wasted for spending in spent)

    def _spent(self) -> Mapping[Kind, Spending]:
        """What it told, cut down where it told of more than there was."""
        spent = self.tally.spent if self.tally else {}
        return _cut(spent, self._told() - self._ran()) if self.ended_at else spent


class Sums(Record):
    """What settled attempts add up to."""

    classes: dict[Kind, Milliseconds] = {}
    """GPU-milliseconds."""
    results: dict[Kind, dict[Result, int]] = {}
    """Number of attempts."""
    output: dict[Kind, Spending] = {}
    """Tokens, rows and bytes."""
    waited: int = 0
    """GPU-milliseconds."""
    rounds: dict[int, int] = {}
    """GPU-milliseconds held, by round."""


class Ledger(Record):
    """All attempts of a run, and what they add up to."""

    attempts: tuple[Attempt, ...] = ()
    """Oldest first; the newest `REMEMBERED_ATTEMPTS`, and all that are not settled."""
    sums: Sums = Sums()
    """Of all settled attempts, those that are no longer kept included."""
    forgotten: tuple[str, ...] = ()
    """Digests of the workers of attempts that are no longer kept, so that none of them is counted twice."""
    evaluated: dict[str, Verdict] = {}
    """Rounds that were evaluated, by the first 16 digits of the evaluation's fingerprint: promoted if it became the
    best one."""

    def noting(self, attempts: Iterable[Attempt]) -> Self:
        """With what is known now of these attempts; one that has ended stays as it was."""
        known = {attempt.worker: attempt for attempt in self.attempts}
        forgotten = frozenset(self.forgotten)
        for attempt in attempts:
            before = known.get(attempt.worker)
            if before is not None:
                known[attempt.worker] = before.noting(attempt)
            elif not forgotten or _digest(attempt.worker) not in forgotten:
                known[attempt.worker] = attempt
        return self._with(known.values())

    def settling(self, done: Collection[str], wanted: Collection[str]) -> Self:
        """With the fate of saved work decided: `done` are fingerprints of committed stages, `wanted` of others."""

        def decided(attempt: Attempt) -> Attempt:
            if attempt.settled or not attempt.saved or attempt.tally is None:
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

    @property
    def gpus(self) -> int:
        """GPUs that are held at the moment."""
        return sum(attempt.gpus for attempt in self.open if attempt.allocated_at)

    def gpu_milliseconds(self) -> dict[Kind, Milliseconds]:
        """What is settled, by kind of stage and class."""
        found = {kind: dict(classes) for kind, classes in self.sums.classes.items()}
        for attempt in self._apart():
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
        settled = sum(sum(classes.values()) for classes in self.sums.classes.values())
        return settled + sum(attempt.held(now) * attempt.gpus for attempt in self._apart())

    def unsettled(self, now: datetime) -> int:
        """GPU-milliseconds that are in no class yet."""
        return self.allocated(now) - sum(self.by_class().values())

    def queued(self, now: datetime) -> int:
        """GPU-milliseconds for which GPUs were waited for; they were not held, and are in no class."""
        return self.sums.waited + sum(attempt.waited(now) * attempt.gpus for attempt in self._apart())

    def held_in_round(self, now: datetime) -> dict[int, int]:
        """GPU-milliseconds by round; an order of several rounds counts in its first."""
        found = dict(self.sums.rounds)
        for attempt in self._apart():
            found[attempt.round] = found.get(attempt.round, 0) + attempt.held(now) * attempt.gpus
        return found

    def results(self) -> dict[Kind, dict[Result, int]]:
        """Number of ended attempts, by kind of stage and how they ended."""
        found = {kind: dict(counts) for kind, counts in self.sums.results.items()}
        for attempt in self._apart():
            if attempt.result:
                counts = found.setdefault(attempt.kind, {})
                counts[attempt.result] = counts.get(attempt.result, 0) + 1
        return found

    def output(self) -> dict[Kind, Spending]:
        """Tokens, rows and bytes of committed stages, by kind."""
        found = dict(self.sums.output)
        for attempt in self._apart():
            for kind, spending in attempt.tally.spent.items() if attempt.tally else ():
                found[kind] = found.get(kind, Spending()) + spending
        return found

    def _apart(self) -> Iterable[Attempt]:
        """Attempts that the sums do not contain."""
        return (attempt for attempt in self.attempts if not attempt.settled)

    def _with(self, attempts: Iterable[Attempt]) -> Self:
        """With these attempts, those settled that can be, and the oldest ones forgotten."""
        kept = list(attempts)
        settled = [attempt for attempt in kept if not attempt.settled and attempt.ended_at and not attempt.saved]
        if settled:
            new = {attempt.worker for attempt in settled}
            kept = [a.model_copy(update={"settled": True}) if a.worker in new else a for a in kept]
        spare = max(len(kept) - REMEMBERED_ATTEMPTS, 0)
        gone = {attempt.worker for attempt in kept[:spare] if attempt.settled}
        return self.model_copy(
            update={
                "attempts": tuple(attempt for attempt in kept if attempt.worker not in gone),
                "sums": Ledger(attempts=tuple(settled), sums=self.sums)._summed() if settled else self.sums,
                "forgotten": (*self.forgotten, *(_digest(worker) for worker in sorted(gone))),
            }
        )

    def _summed(self) -> Sums:
        never = datetime.max.replace(tzinfo=UTC)  # no attempt is under way
        return Sums(
            classes=self.gpu_milliseconds(),
            results=self.results(),
            output=self.output(),
            waited=self.queued(never),
            rounds=self.held_in_round(never),
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


def _add(sums: dict[Kind, Milliseconds], kind: Kind, class_: Class, value: int) -> None:
    if value:
        classes = sums.setdefault(kind, {})
        classes[class_] = classes.get(class_, 0) + value


def _between(start: str, end: datetime) -> int:
    since = datetime.fromisoformat(start)
    return round((end - since).total_seconds() * 1000)


def _digest(worker: str) -> str:
    return sha256(worker.encode())[:16]


def _cut(spent: Mapping[Kind, Spending], excess: int) -> Mapping[Kind, Spending]:
    """Without `excess` milliseconds of what was wasted or saved, as far as that goes."""
    for name in ("wasted", "saved"):
        for kind, spending in spent.items():
            cut = min(excess, getattr(spending, name))
            if cut > 0:
                spent = {**spent, kind: spending.model_copy(update={name: getattr(spending, name) - cut})}
                excess -= cut
    return spent
