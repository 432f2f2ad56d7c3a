"""At any moment of any history, every GPU-second is in exactly one class or unsettled, and no counter ever falls."""

from collections.abc import Iterator
from dataclasses import asdict
from datetime import timedelta

import pytest
from histories import NOON, Event, History, Life, histories, lives
from hypothesis import HealthCheck, given, settings

from evolution import ledger as module
from evolution.attempt import CLASSES, CLOCK_MILLISECONDS
from evolution.ledger import Ledger

KEPT = 3
MANY = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(autouse=True)
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that most histories have attempts which are forgotten."""
    monkeypatch.setattr(module, "REMEMBERED_ATTEMPTS", KEPT)


@MANY
@given(histories())
def test_at_any_time_the_ledger_adds_up_and_no_counter_falls_and_nothing_is_counted_twice(history: History) -> None:
    before: dict[tuple[str, ...], int] = {}
    for event, ledger in told(history):
        for seconds in (-60, 90, 3600):
            adds_up(ledger, seconds)
            adds_up(ledger.of_workers(), seconds)
        after = counters(ledger) | {("worker", *name): value for name, value in counters(ledger.of_workers()).items()}
        assert {name: value for name, value in before.items() if after.get(name, 0) < value} == {}, "fell"
        before = after
        assert ledger.noting(event.attempts).settling(event.done, event.wanted) == ledger, "counted again"
    assert ledger.open == ()
    for shown in (ledger, ledger.of_workers()):
        assert shown.unsettled(NOON) == 0
        assert sum(shown.by_class().values()) == shown.allocated(NOON)
    assert sum(sum(of.values()) for of in ledger.results().values()) == len(history.lives)
    assert ledger.attempts == ()
    assert len(ledger.settled) + len(ledger.forgotten) == len(history.lives)
    assert len(ledger.settled) <= KEPT


@MANY
@given(lives("pod"))
def test_what_a_pod_held_is_its_gpus_times_the_time_from_its_node_to_its_end(life: Life) -> None:
    """Without GPUs, so much is its worker's time."""
    ledger = Ledger().noting(life.news[:-1]).noting(life.news[-1:]).settling([], [])
    gpus = life.news[-1].gpus or 1
    shown = ledger if life.news[-1].gpus else ledger.of_workers()
    total = sum(shown.by_class().values())
    if life.clocks_agree:
        assert total == gpus * life.held
    else:
        told = [attempt.tally for attempt in life.news if attempt.tally]
        committed = sum(s.milliseconds - s.saved - s.wasted for s in told[-1].spent.values()) if told else 0
        apart = 5500  # milliseconds by which the clocks of pods differ at most
        assert gpus * life.held <= total <= gpus * (max(life.held, 0) + apart + max(CLOCK_MILLISECONDS, committed))


def told(history: History) -> Iterator[tuple[Event, Ledger]]:
    """The ledger after each event."""
    ledger = Ledger()
    for event in history.events:
        if event.restart:
            ledger = Ledger.model_validate_json(ledger.to_json())
        ledger = ledger.noting(event.attempts).settling(event.done, event.wanted)
        yield event, ledger


def adds_up(ledger: Ledger, seconds: int) -> None:
    """So many seconds after noon."""
    now = NOON + timedelta(seconds=seconds)
    by_class, unsettled = ledger.by_class(), ledger.unsettled(now)
    assert set(by_class) == set(CLASSES)
    assert min(*by_class.values(), unsettled) >= 0
    assert sum(by_class.values()) + unsettled == ledger.allocated(now)
    assert sum(ledger.held_in_round(now).values()) == ledger.allocated(now)


def counters(ledger: Ledger) -> dict[tuple[str, ...], int]:
    """All that Prometheus sees as counters."""
    found = {(kind, class_): value for kind, of in ledger.gpu_milliseconds().items() for class_, value in of.items()}
    found |= {(kind, result): count for kind, of in ledger.results().items() for result, count in of.items()}
    for kind, spending in ledger.output().items():
        found |= {("output", kind, name): count for name, count in asdict(spending).items()}
    return found
