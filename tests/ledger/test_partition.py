"""At any moment of any history, every GPU-second is in exactly one class or unsettled, and no counter ever falls."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
from histories import NOON, Event, History, Life, histories, lives
from hypothesis import HealthCheck, given, settings

from evolution import ledger as module
from evolution.ledger import CLASSES, CLOCK_MILLISECONDS, Ledger

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
        after = counters(ledger)
        assert {name: value for name, value in before.items() if after.get(name, 0) < value} == {}, "fell"
        before = after
        assert ledger.noting(event.attempts).settling(event.done, event.wanted) == ledger, "counted again"
    assert ledger.open == ()
    assert ledger.unsettled(NOON) == 0
    assert sum(ledger.by_class().values()) == ledger.allocated(NOON)
    assert sum(sum(of.values()) for of in ledger.results().values()) == len(history.lives)
    assert len(ledger.attempts) + len(ledger.forgotten) == len(history.lives)
    assert len(ledger.attempts) <= KEPT


@MANY
@given(lives("pod"))
def test_what_a_pod_held_is_its_gpus_times_the_time_from_its_node_to_its_end(life: Life) -> None:
    ledger = Ledger().noting(life.news[:-1]).noting(life.news[-1:]).settling([], [])
    gpus = life.news[-1].gpus
    total = sum(ledger.by_class().values())
    if life.clocks_agree:
        assert total == gpus * life.held
    else:
        committed = sum(s.milliseconds - s.saved - s.wasted for s in ledger.output().values())
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
        outputs = spending.model_dump(include={"prompt_tokens", "generated_tokens", "trained_tokens", "kept", "bytes"})
        found |= {(kind, name): count for name, count in outputs.items()}
    return found
