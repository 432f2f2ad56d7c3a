"""What writes text for the stages, and which of the ways to do so a worker was told to take."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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


@contextmanager
def opened_engine(session: ModelSession, compute: Compute, adapter: Path | None) -> Iterator[Engine]:  # noqa: ARG001
    """The engine that `compute` names, with the PEFT adapter in the folder `adapter` (None: the bare model)."""
    from evolution_trainer.transformers_engine import TransformersEngine

    with session.adapted(adapter) as model:
        yield TransformersEngine(session, model)
