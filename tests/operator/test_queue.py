import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from itertools import pairwise

import pytest
from virtual_time import run

from evolution_operator.queue import BACKOFF_SECONDS, KeyedQueue

Handler = Callable[[str], Awaitable[float | None]]


@asynccontextmanager
async def running(queue: KeyedQueue[str], handler: Handler, workers: int = 4) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(queue.run(handler, workers))
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


class Calls:
    """A handler that notes when it was called, and answers as it is told."""

    def __init__(self, *answers: float | Exception | None) -> None:
        self.answers = list(answers)
        self.at: list[tuple[str, float]] = []

    async def __call__(self, key: str) -> float | None:
        self.at.append((key, asyncio.get_running_loop().time()))
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def become(self, count: int) -> list[tuple[str, float]]:
        """The calls, once there are so many."""
        while len(self.at) < count:
            await asyncio.sleep(0.01)
        return self.at

    @property
    def seconds(self) -> list[float]:
        return [round(seconds, 1) for _, seconds in self.at]


def test_a_key_added_many_times_is_handled_once() -> None:
    async def scenario() -> list[tuple[str, float]]:
        queue, calls = KeyedQueue[str](), Calls()
        for _ in range(10):
            queue.add("a")
        queue.add("b")
        assert queue.depth == 2
        async with running(queue, calls):
            await calls.become(2)
            await asyncio.sleep(60)
        return calls.at

    assert [key for key, _ in run(scenario())] == ["a", "b"]


def test_a_key_is_never_handled_by_two_workers_and_once_more_if_added_meanwhile() -> None:
    async def scenario() -> None:
        queue = KeyedQueue[str]()
        together = most = calls = 0

        async def handler(key: str) -> None:
            nonlocal together, most, calls
            together, calls = together + 1, calls + 1
            most = max(most, together)
            if calls == 1:
                for _ in range(5):
                    queue.add(key)
                assert queue.is_busy(key)
                assert queue.depth == 1
            await asyncio.sleep(1)
            together -= 1

        queue.add("a")
        async with running(queue, handler):
            await asyncio.sleep(60)
        assert (most, calls) == (1, 2)

    run(scenario())


def test_other_keys_are_handled_at_the_same_time_up_to_the_number_of_workers() -> None:
    async def scenario() -> None:
        queue = KeyedQueue[str]()
        together = most = 0

        async def handler(key: str) -> None:  # noqa: ARG001
            nonlocal together, most
            together += 1
            most = max(most, together)
            await asyncio.sleep(1)
            together -= 1

        for number in range(20):
            queue.add(f"run-{number}")
        async with running(queue, handler, workers=3):
            await asyncio.sleep(60)
        assert most == 3
        assert queue.depth == 0

    run(scenario())


def test_the_number_that_a_handler_returns_is_the_pause_to_its_next_call() -> None:
    async def scenario() -> list[float]:
        queue, calls = KeyedQueue[str](), Calls(15.0, 15.0, None)
        queue.add("a")
        async with running(queue, calls):
            await asyncio.sleep(100)
        return calls.seconds

    assert run(scenario()) == [0, 15, 30]


def test_of_two_delayed_adds_the_earlier_one_counts_in_whichever_order_they_come() -> None:
    async def scenario(first: float, second: float) -> list[float]:
        queue, calls = KeyedQueue[str](), Calls()
        queue.add_after("a", first)
        queue.add_after("a", second)
        async with running(queue, calls):
            await asyncio.sleep(100)
        return calls.seconds

    assert run(scenario(10, 3)) == [3]
    assert run(scenario(3, 10)) == [3]


def test_a_call_supersedes_the_delayed_one_that_was_asked_for_before_it() -> None:
    async def scenario() -> list[float]:
        queue, calls = KeyedQueue[str](), Calls(15.0, None)
        queue.add("a")
        async with running(queue, calls):
            await asyncio.sleep(3)
            queue.add("a")
            await asyncio.sleep(100)
        return calls.seconds

    assert run(scenario()) == [0, 3]


def test_a_failing_key_is_tried_again_after_growing_pauses_that_begin_anew_after_success() -> None:
    async def scenario() -> list[float]:
        errors: list[Exception | None] = [ValueError("no") for _ in range(6)]
        queue, calls = KeyedQueue[str](expected=(ValueError,)), Calls(*errors, None, ValueError("again"))
        queue.add("a")
        async with running(queue, calls):
            await calls.become(7)
            queue.add("a")
            await calls.become(9)
        return calls.seconds

    times = run(scenario())
    pauses = [round(later - earlier, 1) for earlier, later in pairwise(times)]
    assert pauses[:6] == [*BACKOFF_SECONDS, BACKOFF_SECONDS[-1]]
    assert pauses[-1] == BACKOFF_SECONDS[0]


def test_a_server_that_asks_for_a_longer_pause_gets_it() -> None:
    class Busy(Exception):
        retry_after = 7.0

    async def scenario() -> list[float]:
        queue, calls = KeyedQueue[str](expected=(Busy,)), Calls(Busy())
        queue.add("a")
        async with running(queue, calls):
            await calls.become(2)
        return calls.seconds

    assert run(scenario()) == [0, 7]


def test_an_expected_error_is_one_line_and_an_unexpected_one_shows_where_it_happened(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario() -> None:
        queue, calls = KeyedQueue[str](expected=(ValueError,)), Calls(ValueError("the store is away"), KeyError("bug"))
        queue.add("a")
        async with running(queue, calls):
            await calls.become(3)

    with caplog.at_level(logging.WARNING):
        run(scenario())
    expected, unexpected = caplog.records
    assert expected.getMessage() == "a: the store is away; trying again in 1 s"
    assert expected.exc_info is None
    assert "unexpected KeyError" in unexpected.getMessage()
    assert unexpected.exc_info is not None


def test_one_failing_key_does_not_hold_up_the_others() -> None:
    async def scenario() -> None:
        queue, calls = KeyedQueue[str](expected=(ValueError,)), Calls(ValueError("no"))
        for key in "abc":
            queue.add(key)
        async with running(queue, calls, workers=1):
            await calls.become(3)
            assert calls.seconds == [0, 0, 0]

    run(scenario())


def test_a_forgotten_key_is_not_handled() -> None:
    async def scenario() -> list[tuple[str, float]]:
        queue, calls = KeyedQueue[str](), Calls()
        queue.add("waiting")
        queue.add_after("delayed", 5)
        queue.forget("waiting")
        queue.forget("delayed")
        queue.add("b")
        async with running(queue, calls):
            await asyncio.sleep(60)
        return calls.at

    assert [key for key, _ in run(scenario())] == ["b"]


def test_depth_and_age_tell_how_far_behind_the_workers_are() -> None:
    async def scenario() -> None:
        queue = KeyedQueue[str]()
        assert (queue.depth, queue.oldest_age) == (0, 0.0)
        queue.add("a")
        await asyncio.sleep(2)
        queue.add("b")
        await asyncio.sleep(1)
        assert (queue.depth, round(queue.oldest_age, 1)) == (2, 3.0)

    run(scenario())


def test_stopping_lets_what_is_under_way_finish_and_takes_nothing_new() -> None:
    async def scenario() -> tuple[list[str], float]:
        queue = KeyedQueue[str]()
        finished: list[str] = []

        async def handler(key: str) -> None:
            await asyncio.sleep(3)
            finished.append(key)

        for key in "abc":
            queue.add(key)
        async with running(queue, handler, workers=2):
            await asyncio.sleep(1)
        return finished, asyncio.get_running_loop().time()

    finished, seconds = run(scenario())
    assert finished == ["a", "b"]
    assert round(seconds) == 3


def test_stopping_does_not_wait_for_ever_for_a_handler_that_hangs() -> None:
    async def scenario() -> float:
        queue = KeyedQueue[str]()
        queue.add("a")
        async with running(queue, lambda _: asyncio.sleep(10_000)):
            await asyncio.sleep(1)
        return asyncio.get_running_loop().time()

    assert round(run(scenario())) == 6


def test_urgent_keys_come_first_even_if_they_have_been_waiting() -> None:
    async def scenario() -> list[tuple[str, float]]:
        queue, calls = KeyedQueue[str](), Calls()
        for key in ("a", "b", "c"):
            queue.add(key)
        queue.add("d", urgent=True)
        queue.add("b", urgent=True)
        assert queue.depth == 4
        async with running(queue, calls, workers=1):
            await calls.become(4)
            await asyncio.sleep(60)
        return calls.at

    assert [key for key, _ in run(scenario())] == ["d", "b", "a", "c"]
