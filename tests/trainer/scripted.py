"""An engine that says what a test wrote down for it, beside a real tokenizer."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from evolution_trainer.engine import Reply
from evolution_trainer.model import ModelSession
from evolution_trainer.preemption import Preempted

PROMPTS = {"questionPrompt": "ASK {document}", "answerPrompt": "TELL {question} FROM {document}"}


@dataclass
class Script:
    """Replies to the three kinds of prompts, and what was asked for."""

    session: ModelSession
    questions: Callable[[str, int], str]
    """From a document's text and the candidate's number."""
    answers: Mapping[str, str]
    """By question."""
    memory: Mapping[str, str] = field(default_factory=dict)
    """What is answered without a document, by question; all else is not known."""
    numbers: Mapping[int, int] = field(default_factory=dict)
    """Number of a candidate by the seed of its question."""
    calls_left: int = 1_000_000
    """Calls until a signal comes."""
    signal: type[BaseException] = Preempted
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Kind of the prompt and its document or question."""
    adapters: list[str] = field(default_factory=list)
    """Adapter of every engine that was opened."""

    @contextmanager
    def opened(self, _session: ModelSession, _compute: object, adapter: Any) -> Iterator["Script"]:
        self.adapters.append(adapter.name if adapter else "")
        yield self

    def fits(self, _prompt: Sequence[int]) -> bool:
        return True

    def generate(
        self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], *, on_done: Callable[[int], None], **_: object
    ) -> list[Reply]:
        if self.calls_left == 0:
            raise self.signal
        self.calls_left -= 1
        assert len(seeds) == len(prompts)
        on_done(len(prompts))
        numbers = map(self.numbers.get, seeds)
        return [Reply(self._reply(self._content(p), n or 0), True, 3) for p, n in zip(prompts, numbers, strict=True)]

    def _content(self, prompt: Sequence[int]) -> str:
        text = str(self.session.tokenizer.decode(list(prompt)))
        return text.split("user\n", 1)[1].split("<|im_end|>", 1)[0]

    def _reply(self, content: str, number: int) -> str:
        if content.startswith("ASK "):
            document = content.removeprefix("ASK ")
            self.asked.append(("question", document))
            return self.questions(document, number)
        if content.startswith("TELL "):
            question = content.removeprefix("TELL ").split(" FROM ", 1)[0]
            self.asked.append(("answer", question))
            return self.answers[question]
        self.asked.append(("memory", content))
        return self.memory.get(content, "no idea")

    def count(self, kind: str) -> int:
        return sum(found == kind for found, _ in self.asked)
