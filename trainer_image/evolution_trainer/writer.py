"""The model as a writer: every request gets one row of a journal, so that an interrupted worker goes on at the next."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeVar

from evolution.api.run import Preset
from evolution_trainer.clean import Cleaned, Rejected
from evolution_trainer.engine import Engine, Reply, opened_engine
from evolution_trainer.rows import Row
from evolution_trainer.seeds import seed
from evolution_trainer.stage import StageRun

T = TypeVar("T")

WINDOW = 256
"""Requests that are in memory at once, and are lost together when the worker is killed."""
SMALLEST_WINDOW = 16


class Clean(Protocol):
    def __call__(self, raw: str, *, finished: bool, document: str, rules: Preset) -> Cleaned | Rejected: ...


@dataclass(frozen=True)
class Manner:
    """How a kind of request is answered."""

    purpose: str
    """Tells the seeds of one kind from those of another."""
    adapter: str | None
    """Digest of the adapter that writes; None: the bare model."""
    temperature: float
    clean: Clean


@dataclass(frozen=True)
class Request:
    id: str
    content: str
    document: str
    """Text that the reply must not merely copy."""
    max_tokens: int


@dataclass
class Writer:
    """Answers requests; one model is open at a time, from the first request that needs it."""

    stage: StageRun
    rules: Preset
    seeds: tuple[int, int]
    """Seed of the run, and round."""
    top_p: float
    _engines: ExitStack
    _journals: ExitStack
    _open: tuple[str | None, Engine] | None = None

    def write(self, name: str, manner: Manner, requests: Iterable[Request], on_done: Callable[[int], None]) -> Path:
        """A file of rows in the order of the requests: id, text, and the reason if the text is of no use.

        The rows are a journal of that name. `requests` must be the same ones whenever the stage is tried again.
        """
        journal = self._journals.enter_context(self.stage.journal(name))
        on_done(journal.count)
        for window in paced(islice(requests, journal.count, None), self.stage.checkpoints.interval):
            journal(*self._rows(manner, window, on_done))
        journal.flush()
        return journal.path

    def _rows(self, manner: Manner, window: list[Request], on_done: Callable[[int], None]) -> Iterator[Row]:
        engine = self._engine(manner.adapter)
        chat = self.stage.session.chat
        tokenise = chat.joint_prompt if self.rules == "Reference" else chat.prompt
        prompts = [tokenise(request.content) for request in window]
        fitting = [i for i, prompt in enumerate(prompts) if engine.fits(prompt)]
        on_done(len(window) - len(fitting))
        replies: dict[int, Reply] = {}
        for limit in sorted({window[i].max_tokens for i in fitting}):
            rows = [i for i in fitting if window[i].max_tokens == limit]
            written = engine.generate(
                [prompts[i] for i in rows],
                [seed(*self.seeds, manner.purpose, window[i].id) for i in rows],
                temperature=manner.temperature,
                top_p=self.top_p,
                max_tokens=limit,
                on_done=on_done,
            )
            replies.update(zip(rows, written, strict=True))
        count_usage(self.stage, [prompts[i] for i in fitting], replies.values())
        for i, request in enumerate(window):
            text, reason = self._cleaned(manner.clean, replies.get(i), request)
            yield {"id": request.id, "text": text, "reason": reason}

    def _cleaned(self, clean: Clean, reply: Reply | None, request: Request) -> tuple[str, str]:
        if reply is None:
            return "", "TooLong"
        cleaned = clean(reply.text, finished=reply.finished, document=request.document, rules=self.rules)
        return (cleaned.text, "") if isinstance(cleaned, Cleaned) else (reply.text, cleaned.reason)

    def _engine(self, adapter: str | None) -> Engine:
        if self._open is None or self._open[0] != adapter:
            self._open = None
            self._engines.close()
            folder = self.stage.artifacts.fetch_tree(adapter) if adapter else None
            engine = self._engines.enter_context(opened_engine(self.stage.session, self.stage.compute, folder))
            self._open = adapter, engine
        return self._open[1]


@contextmanager
def opened_writer(stage: StageRun, rules: Preset, seeds: tuple[int, int], top_p: float) -> Iterator[Writer]:
    with ExitStack() as engines, ExitStack() as journals:  # a signal leaves little time: the journals are saved first
        yield Writer(stage, rules, seeds, top_p, engines, journals)


def paced(requests: Iterable[T], seconds: float) -> Iterator[list[T]]:
    """Consecutive lists of requests; half as many in the next one where one took longer than `seconds`."""
    iterator, size = iter(requests), WINDOW
    while window := list(islice(iterator, size)):
        began = time.monotonic()
        yield window
        if time.monotonic() - began > seconds:
            size = max(min(size, SMALLEST_WINDOW), size // 2)


def count_usage(stage: StageRun, prompts: Iterable[list[int]], replies: Iterable[Reply]) -> None:
    """Add what was read and written; operations only where this process itself has the model."""
    read, written = sum(map(len, prompts)), sum(reply.tokens for reply in replies)
    stage.usage.tokens_in += read
    stage.usage.tokens_out += written
    if stage.compute.engine == "Transformers":
        stage.usage.flops += 2.0 * stage.session.base.num_parameters() * (read + written)
