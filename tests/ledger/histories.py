"""Invented histories of a run: what its workers really did, and the news of it in the order in which it got about."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from evolution.attempt import RESULTS, Attempt
from evolution.plan.stage import Kind
from evolution.plan.tally import Spending, Tally

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)
STAGES = tuple(f"{digit}" * 64 for digit in "abcdef")
"""Fingerprints of the stages whose work is saved or abandoned."""


def at(milliseconds: int, *, whole: bool = False) -> str:
    """So long after noon; in whole seconds, as Kubernetes tells times."""
    moment = NOON + timedelta(milliseconds=milliseconds)
    return moment.isoformat(timespec="seconds" if whole else "milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True)
class Life:
    """What is known of one worker, at one moment after the other; the last news is of its end."""

    news: tuple[Attempt, ...]
    held: int
    """Milliseconds from the node to the end by the times of its pod; 0 without a node."""
    clocks_agree: bool
    """Its node came before its start, and its worker told of no more time than there was between start and end."""


@dataclass(frozen=True)
class Event:
    """One thing that happens to the ledger."""

    attempts: tuple[Attempt, ...] = ()
    done: frozenset[str] = frozenset()
    wanted: frozenset[str] = frozenset(STAGES)
    restart: bool = False


@dataclass
class History:
    lives: list[Life]
    events: list[Event] = field(default_factory=list)


@st.composite
def lives(draw: st.DrawFn, name: str) -> Life:
    """A pod: from its being wanted to its end, with its worker's tally after each stage."""
    kind = draw(st.sampled_from(list(Kind)))
    times: dict[str, Any] = {"queued_at": at(queued := draw(st.integers(0, 100_000)), whole=True)}
    known = {
        "worker": name,
        "job": f"job-{name}",
        "kind": kind,
        "round": draw(st.integers(0, 3)),
        "gpus": draw(st.sampled_from([0, 1, 2, 8])),
    }
    news = [Attempt(**known, **times)]
    moment = queued
    fate = draw(st.sampled_from(["unscheduled", "unstarted", "silent", "ran", "ran", "ran", "ran"]))
    tally = Tally(worker=name, gpus=known["gpus"])
    if fate != "unscheduled":
        moment += draw(st.integers(0, 60_000))
        times["allocated_at"] = at(moment, whole=True)
        news.append(Attempt(**known, **times))
    if fate in ("silent", "ran"):
        moment += draw(st.integers(0, 90_000))
        # Clocks of two machines: the kubelet's may be ahead of the scheduler's or behind it.
        times["started_at"] = at(moment + draw(st.sampled_from([0, 0, -3000, 3000])), whole=True)
        news.append(Attempt(**known, **times))
    if fate == "ran":
        # The worker's own clock, finer than the pod's and not always right.
        tally = tally.model_copy(update={"started_at": at(moment + draw(st.integers(-1500, 20_000)))})
        parts = st.integers(0, 40_000)
        for of in draw(st.lists(st.sampled_from(list(Kind)), max_size=4)):
            spending = Spending(
                productive=draw(parts),
                load=draw(parts),
                checkpoint=draw(parts),
                io=draw(parts),
                idle=draw(parts),
                prompt_tokens=draw(parts),
                kept=3,
                bytes=30,
            )
            moment += spending.milliseconds
            tally = tally.adding(of, spending)
            news.append(Attempt(**known, **times, tally=tally))
        if draw(st.booleans()):
            lost = Spending(saved=draw(parts), wasted=draw(parts))
            moment += lost.milliseconds
            tally = tally.adding(draw(st.sampled_from(list(Kind))), lost, draw(st.sampled_from(STAGES)))
            news.append(Attempt(**known, **times, tally=tally))
    moment += draw(st.sampled_from([-2500, -800, 0, 0, 400, 15_000]))
    times["ended_at"] = at(moment, whole=True)
    spoken = draw(st.booleans())  # whether its last words were read, or only its progress
    news.append(Attempt(**known, **times, result=draw(st.sampled_from(RESULTS)), tally=tally if spoken else None))
    node, start, end = (times.get(name, "") for name in ("allocated_at", "started_at", "ended_at"))
    return Life(
        news=tuple(news),
        held=_between(node, end),
        clocks_agree=min(_between(node, end), _between(node, start)) >= 0
        and tally.milliseconds <= _between(start, end),
    )


@st.composite
def histories(draw: st.DrawFn) -> History:
    """Several lives, whose news arrives interleaved, repeated, late or never; stages are done or given up meanwhile."""
    found = History([draw(lives(f"pod-{index}")) for index in range(draw(st.integers(1, 8)))])
    queue: list[Attempt] = []
    for life in found.lives:
        heard = [one for one in life.news[:-1] if draw(st.booleans())]
        queue += [*heard, *draw(st.lists(st.sampled_from(life.news), max_size=2))]
    done: frozenset[str] = frozenset()
    wanted = frozenset(STAGES)
    for attempt in draw(st.permutations(queue)):
        if draw(st.integers(0, 3)) == 0:
            done |= draw(st.frozensets(st.sampled_from(STAGES), max_size=1))
            wanted -= draw(st.frozensets(st.sampled_from(STAGES), max_size=1))
        found.events.append(Event((attempt,), done, wanted - done, restart=draw(st.booleans())))
    found.events.append(Event(tuple(life.news[-1] for life in found.lives), done, wanted - done))
    found.events.append(Event(tuple(life.news[0] for life in found.lives), done, frozenset(), restart=True))
    return found


def _between(start: str, end: str) -> int:
    if not start or not end:
        return 0
    return round((datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds() * 1000)
