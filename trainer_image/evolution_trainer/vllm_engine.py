"""Text generation with vLLM, in a child process: when the engine is closed, the GPU is as it was before."""

import os
import sys
import time
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
SETTINGS: Mapping[str, str] = {
    # All in one process: the order of computation is the same each time, and errors arrive where they can be told.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
}
"""Environment of the child; what is set already wins."""


@contextmanager
def opened(session: ModelSession, adapter: Path | None) -> Iterator[Engine]:
    """vLLM with the model of `session`, whose own weights leave memory.

    Raises:
        StageFailed: EngineCannotServe or EngineMissing (bad spec); EngineUnavailable, if vLLM does not start.
    """
    start = Start(
        model=str(session.folder),
        window=session.window,
        dtype="bfloat16" if session.device.type == "cuda" else "float32",
        stop_tokens=session.end_tokens,
        adapter=None if adapter is None else _adapter(adapter),
    )
    session.unload()
    began = time.monotonic()
    command = [sys.executable, "-m", "evolution_trainer.vllm_process"]
    with Child("vLLM", command, {**SETTINGS, **os.environ}) as child:
        _ask(child, start, START_SECONDS)
        session.load_seconds += time.monotonic() - began
        yield VLLMEngine(session, child)


@dataclass(frozen=True)
class VLLMEngine:
    """`Engine` by vLLM. On a GPU a reply may depend on its batch in the last bits of its probabilities, as in any bf16
    batch; VLLM_BATCH_INVARIANT=1 in the environment prevents it where the GPU allows.
    """

    session: ModelSession
    child: Child

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


def _adapter(folder: Path) -> Adapter:
    adapter = served_adapter(folder, "VLLM")
    room = next((rank for rank in RANKS if rank >= adapter.rank), None)
    if room is None:
        raise StageFailed(
            "EngineCannotServe",
            f"engine VLLM: the adapter has rank {adapter.rank}, more than the {RANKS[-1]} that it takes; use engine "
            "Transformers, or a smaller training.rank",
            ExitCode.BAD_SPEC,
        )
    return Adapter(name=adapter.name, path=str(adapter.path), room=room)


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
