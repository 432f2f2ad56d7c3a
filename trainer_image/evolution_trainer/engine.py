"""What writes text for the stages, and which of the ways to do so a worker was told to take."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from evolution.plan.order import Compute
from evolution_trainer.model import ModelSession


@dataclass(frozen=True)
class Reply:
    text: str
    finished: bool
    """False: cut at the length limit."""
    tokens: int = 0
    """Written, the one that ends the reply included."""


class Engine(Protocol):
    """The model, with or without an adapter, as a writer of replies."""

    def fits(self, prompt: Sequence[int]) -> bool:
        """Whether the model's window has room for a reply of at least one token."""
        ...

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

        A reply depends on its prompt and seed alone, not on the batch. `on_done` hears how many more are there.
        """
        ...


def read_reply(session: ModelSession, tokens: Sequence[int]) -> Reply:
    """The reply that `tokens` are, up to the first that ends one; without such a token it was cut."""
    ends = set(session.end_tokens)
    length = next((i for i, token in enumerate(tokens) if token in ends), None)
    text = session.tokenizer.decode(list(tokens[:length]), skip_special_tokens=True)
    return Reply(text.strip(), length is not None, len(tokens) if length is None else length + 1)


def opened_engine(session: ModelSession, compute: Compute, adapter: Path | None) -> AbstractContextManager[Engine]:
    """The engine that `compute` names, with the PEFT adapter in the folder `adapter` (None: the bare model).

    What it takes long to start stays with the session, for the next engine: writers may take turns.

    Raises:
        StageFailed: EngineCannotServe or EngineMissing (bad spec); EngineUnavailable, which is worth another try.
    """
    match compute.engine:
        case "Transformers":
            return _transformers(session, adapter)
        case "VLLM":
            from evolution_trainer import vllm_engine

            return vllm_engine.opened(session, adapter)
        case "OpenAI":
            from evolution_trainer import openai_engine

            return openai_engine.opened(session, compute.endpoint, adapter)


@contextmanager
def _transformers(session: ModelSession, adapter: Path | None) -> Iterator[Engine]:
    from evolution_trainer.transformers_engine import TransformersEngine

    with session.adapted(adapter) as model:
        yield TransformersEngine(session, model)
