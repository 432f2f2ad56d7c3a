"""Where the seconds of a stage go."""

import time

import pytest

from evolution_trainer.timing import ACTIVITIES, Clock


@pytest.fixture
def tick(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, to be moved by the test."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_every_second_belongs_to_the_innermost_of_what_is_being_done(tick: list[float]) -> None:
    clock = Clock()
    tick[0] += 1
    with clock.moving():
        tick[0] += 2
        with clock.waiting():
            tick[0] += 4
        with clock.moving():
            tick[0] += 8
    with clock.checkpointing():
        tick[0] += 16
    with clock.loading():
        tick[0] += 32
    timings = clock.timings()
    spent = (timings.work, timings.io, timings.idle, timings.checkpoint, timings.load)
    assert spent == (1, 10, 4, 16, 32)
    assert timings.total == 63


def test_a_failure_ends_its_block_only(tick: list[float]) -> None:
    clock = Clock()

    def fail() -> None:
        with clock.moving():
            tick[0] += 1
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail()
    tick[0] += 1
    assert (clock.timings().io, clock.timings().work) == (1, 1)


def test_the_parts_are_the_whole_whenever_one_looks(tick: list[float]) -> None:
    clock = Clock()
    with clock.loading():
        for _ in range(3):
            tick[0] += 0.25
            timings = clock.timings()
            assert sum(getattr(timings, activity) for activity in ACTIVITIES) == timings.total == clock.seconds["load"]
