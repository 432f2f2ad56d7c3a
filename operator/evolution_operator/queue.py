"""Work queue of keys: added many times, done once; never twice at a time; once more if added meanwhile."""

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Hashable
from contextlib import suppress
from time import monotonic
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

URGENT, ORDINARY = 0, 1
BACKOFF_SECONDS = (1.0, 2.0, 5.0, 10.0, 30.0)
"""Waiting times after the first, second, … failure in a row of a key; the last one repeats."""
STOP_SECONDS = 5.0
"""Handlers under way get so long to finish when the queue stops."""

Timed = Callable[[float, bool], None]

logger = logging.getLogger(__name__)


class KeyedQueue(Generic[K]):
    """For one event loop. `expected` errors are logged as one line, all others with their traceback.

    `timed` is told how many seconds each call of the handler took, and whether it went well.
    """

    def __init__(self, expected: tuple[type[Exception], ...] = (), timed: Timed = lambda _seconds, _ok: None) -> None:
        self._expected = expected
        self._timed = timed
        self._order: asyncio.PriorityQueue[tuple[int, int, K | None]] = asyncio.PriorityQueue()
        self._numbers = itertools.count()
        self._waiting: dict[K, float] = {}
        self._busy: set[K] = set()
        self._dirty: dict[K, float] = {}
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._failures: dict[K, int] = {}

    @property
    def depth(self) -> int:
        """Keys that wait for a worker."""
        return len(self._waiting) + len(self._dirty)

    @property
    def oldest_age(self) -> float:
        """Seconds that the key longest in wait has waited; 0 if none waits."""
        oldest = min((*self._waiting.values(), *self._dirty.values()), default=None)
        return 0.0 if oldest is None else asyncio.get_running_loop().time() - oldest

    def is_busy(self, key: K) -> bool:
        """Whether a worker is handling the key right now."""
        return key in self._busy

    def add(self, key: K, *, urgent: bool = False) -> None:
        """Handle the key as soon as a worker is free; once more afterwards if it is being handled now.

        Urgent keys come before all others, also if they have been waiting as one of those.
        """
        now = asyncio.get_running_loop().time()
        if key in self._busy:
            self._dirty.setdefault(key, now)
        elif urgent or key not in self._waiting:
            self._waiting.setdefault(key, now)
            self._put(URGENT if urgent else ORDINARY, key)

    def add_after(self, key: K, seconds: float) -> None:
        """Add the key in so many seconds, or earlier if that was asked for before."""
        loop = asyncio.get_running_loop()
        when = loop.time() + seconds
        timer = self._timers.get(key)
        if timer is not None:
            if timer.when() <= when:
                return
            timer.cancel()
        self._timers[key] = loop.call_at(when, self._due, key)

    def forget(self, key: K) -> None:
        """Drop all that is known of the key: it waits no longer, and its failures are no longer counted."""
        self._waiting.pop(key, None)
        self._dirty.pop(key, None)
        self._failures.pop(key, None)
        self._cancel_timer(key)

    async def run(self, handler: Callable[[K], Awaitable[float | None]], workers: int = 32) -> None:
        """Hand keys to `handler` until cancelled; a number that it returns is the seconds to the next call.

        A call supersedes delayed ones that were asked for before it. When cancelled, nothing new is taken, and handlers
        under way get `STOP_SECONDS`.
        """
        tasks = [asyncio.create_task(self._work(handler), name=f"worker {number}") for number in range(workers)]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for timer in self._timers.values():
                timer.cancel()
            self._timers.clear()
            self._waiting.clear()
            self._dirty.clear()
            for _ in tasks:
                self._put(URGENT, None)
            _, late = await asyncio.wait(tasks, timeout=STOP_SECONDS)
            if late:
                logger.warning("%d reconciliations did not finish within %g s; giving them up", len(late), STOP_SECONDS)
            for task in late:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    async def _work(self, handler: Callable[[K], Awaitable[float | None]]) -> None:
        while (key := (await self._order.get())[2]) is not None:
            if self._waiting.pop(key, None) is None:
                continue  # forgotten meanwhile, or handled as urgent
            self._busy.add(key)
            self._cancel_timer(key)
            started = monotonic()
            try:
                again = await handler(key)
            except Exception as error:
                self._timed(monotonic() - started, False)
                again = self._after_failure(key, error)
            else:
                self._timed(monotonic() - started, True)
                self._failures.pop(key, None)
            finally:
                self._busy.discard(key)
            if self._dirty.pop(key, None) is not None:
                self.add(key)
            if again is not None:
                self.add_after(key, again)

    def _after_failure(self, key: K, error: Exception) -> float:
        count = self._failures.get(key, 0)
        self._failures[key] = count + 1
        delay = max(BACKOFF_SECONDS[min(count, len(BACKOFF_SECONDS) - 1)], getattr(error, "retry_after", None) or 0.0)
        name = "/".join(key) if isinstance(key, tuple) else str(key)
        context = {"namespace": key[0], "run": key[1]} if isinstance(key, tuple) and len(key) == 2 else {}
        if isinstance(error, self._expected):
            logger.warning("%s: %s; trying again in %g s", name, error, delay, extra=context)
        else:
            kind = type(error).__name__
            logger.error("%s: unexpected %s; trying again in %g s", name, kind, delay, exc_info=error, extra=context)
        return delay

    def _put(self, rank: int, key: K | None) -> None:
        self._order.put_nowait((rank, next(self._numbers), key))

    def _due(self, key: K) -> None:
        self._timers.pop(key, None)
        self.add(key)

    def _cancel_timer(self, key: K) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
