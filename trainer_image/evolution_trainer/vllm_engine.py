"""Text generation with vLLM, in a child process that a worker keeps until it needs the GPU itself."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from evolution.plan.manifest import Record
from evolution.plan.worker import ExitCode
from evolution_trainer.child import Child, ChildFailed
from evolution_trainer.engine import Engine, Reply, read_reply
from evolution_trainer.failure import StageFailed
from evolution_trainer.model import ModelSession
from evolution_trainer.served_adapter import served_adapter
from evolution_trainer.vllm_process import RANKS, Adapter, Answer, Prompts, Start

CHUNK = 256
"""Rows that vLLM has at once; after each chunk, progress is told."""
START_SECONDS = 1800.0
"""Longest time until vLLM has read the model and compiled what it needs."""
SILENCE_SECONDS = 1800.0
"""Longest time for one chunk."""
HOTTEST = 2.0
"""vLLM takes no higher temperature."""
UNSEEN = 64
"""Rank to make room for until the worker has seen an adapter. All adapters of a run have the same rank, and seldom a
higher one. Its matrices take 2 % of what the weights of 7 billion parameters take; another start takes minutes.
"""
SETTINGS: Mapping[str, str] = {
    # All in one process: the order of computation is the same each time, and errors arrive where they can be told.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
}
"""Environment of the child; what is set already wins."""


@contextmanager
def opened(session: ModelSession, adapter: Path | None) -> Iterator[Engine]:
    """vLLM with the model of `session`, whose own weights leave memory. It stays for the next engine that is opened,
    with whatever adapter, unless the block fails.

    Raises:
        StageFailed: EngineCannotServe or EngineMissing (bad spec); EngineUnavailable, if vLLM does not start.
    """
    served = None if adapter is None else served_adapter(adapter, "VLLM")
    rank = _room(served.rank) if served else 0
    if not isinstance(session.tenant, VLLM):
        session.tenant = VLLM()
    vllm = session.tenant
    child = vllm.child(session, rank)
    try:
        yield VLLMEngine(session, child, served and Adapter(name=served.name, path=str(served.path)))
    except BaseException:  # an answer may be on its way that nobody waits for any more
        vllm.close()
        raise


class VLLM:
    """vLLM on the GPU of a worker, from the first text to the first need of the worker's own."""

    def __init__(self) -> None:
        self._rank = 0
        """Room for the adapters seen so far."""
        self._running: tuple[Start, Child] | None = None

    def child(self, session: ModelSession, rank: int) -> Child:
        """The process that serves the model of `session` and adapters up to that rank (one of RANKS, 0: none): the one
        there is, if it can, else a new one.
        """
        self._rank = max(self._rank, rank)
        wanted = Start(
            model=str(session.folder),
            window=session.window,
            dtype="bfloat16" if session.device.type == "cuda" else "float32",
            stop_tokens=session.end_tokens,
            rank=self._rank or UNSEEN,
        )
        if self._running is not None:
            start, child = self._running
            if child.alive and start.rank >= self._rank and start == wanted.model_copy(update={"rank": start.rank}):
                return child
        self.close()
        session.unload()
        command = [sys.executable, "-m", "evolution_trainer.vllm_process"]
        child = Child("vLLM", command, {**SETTINGS, **os.environ})
        self._running = wanted, child
        try:
            with session.clock.loading():
                _ask(child, wanted, START_SECONDS)
        except BaseException:
            self.close()
            raise
        return child

    def close(self) -> None:
        """Kill it: the GPU is free afterwards."""
        if self._running is not None:
            self._running[1].close()
            self._running = None


@dataclass(frozen=True)
class VLLMEngine:
    """`Engine` by vLLM. On a GPU a reply may depend on its batch in the last bits of its probabilities, as in any bf16
    batch; VLLM_BATCH_INVARIANT=1 in the environment prevents it where the GPU allows.
    """

    session: ModelSession
    child: Child
    adapter: Adapter | None

    def fits(self, prompt: Sequence[int]) -> bool:
        """Whether the model's window has room for a reply of at least one token."""
        return len(prompt) < self.session.window

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        *,
        temperature: float,
        top_p: float,
        max_tokens: int,
        on_done: Callable[[int], None] = lambda _: None,
    ) -> list[Reply]:
        """Replies in the order of `prompts` (token ids, all of which fit). Temperature 0 is greedy and uses no seed.

        Raises:
            StageFailed: EngineUnavailable, if vLLM fails; EngineCannotServe, if it is too hot for it.
        """
        if temperature > HOTTEST:
            raise StageFailed(
                "EngineCannotServe",
                f"engine VLLM: a temperature of {temperature:g} is more than the {HOTTEST:g} that it takes; lower "
                "generation.temperature and generation.answerTemperature, or use engine Transformers",
                ExitCode.BAD_SPEC,
            )
        replies: list[Reply] = []
        for start in range(0, len(prompts), CHUNK):
            chunk = prompts[start : start + CHUNK]
            rows = Prompts(
                adapter=self.adapter,
                tokens=[list(prompt) for prompt in chunk],
                seeds=list(seeds[start : start + CHUNK]),
                max_tokens=[min(max_tokens, self.session.window - len(prompt)) for prompt in chunk],
                temperature=temperature,
                top_p=top_p,
            )
            for written in _ask(self.child, rows, SILENCE_SECONDS).continuations:
                if written.reason not in ("stop", "length"):
                    raise _unavailable(f"vLLM gave up a reply: {written.reason or 'no reason given'}")
                replies.append(read_reply(self.session, written.tokens))
            on_done(len(chunk))
        return replies


def _room(rank: int) -> int:
    """What vLLM rounds it up to."""
    room = next((room for room in RANKS if room >= rank), None)
    if room is None:
        raise StageFailed(
            "EngineCannotServe",
            f"engine VLLM: the adapter has rank {rank}, more than the {RANKS[-1]} that it takes; use engine "
            "Transformers, or a smaller training.rank",
            ExitCode.BAD_SPEC,
        )
    return room


def _ask(child: Child, line: Record, seconds: float) -> Answer:
    try:
        answer = Answer.model_validate_json(child.ask(line.to_json(), seconds))
    except ChildFailed as failed:
        raise _unavailable(str(failed)) from failed
    if answer.missing:
        raise StageFailed(
            "EngineMissing",
            "engine VLLM: vLLM is not installed here; install the extra evolution[vllm] (Linux, Python 3.12, a GPU), "
            "or use engine Transformers",
            ExitCode.BAD_SPEC,
        )
    if answer.error:
        raise _unavailable(f"vLLM failed: {answer.error}")
    return answer


def _unavailable(message: str) -> StageFailed:
    return StageFailed("EngineUnavailable", message, code=1)
