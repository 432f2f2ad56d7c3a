"""Pairs as spans of token ids of which some are scored: the answer after its question, and the same answer alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from evolution_trainer.chat import ChatFormat
from evolution_trainer.clean import says_nothing
from evolution_trainer.rows import Row


@dataclass(frozen=True)
class Span:
    """A sequence of token ids of which those from `start` on are scored."""

    ids: np.ndarray
    """[tokens], int32."""
    start: int

    @classmethod
    def of(cls, ids: Sequence[int], start: int) -> "Span":
        return cls(np.array(ids, dtype=np.int32), start)

    @property
    def scored(self) -> int:
        return max(0, len(self.ids) - self.start)


@dataclass(frozen=True)
class Measured:
    """What is to be scored of a pair, or why there is no score."""

    conditional: Span
    alone: Span
    reason: str = ""


Measure = Callable[[Sequence[Row]], list[Measured]]
"""From pairs (question, answer) to spans, in their order."""


def default_measure(chat: ChatFormat, max_tokens: int) -> Measure:
    """The chat prompt of the question, then the answer; alone: the assistant's header, then the same tokens."""

    def measure(pairs: Sequence[Row]) -> list[Measured]:
        questions = chat.plain_all([pair["question"] for pair in pairs])
        answers = chat.plain_all([pair["answer"] for pair in pairs])
        header, found = chat.assistant_header, []
        for pair, question, answer in zip(pairs, questions, answers, strict=True):
            prompt = [*chat.head, *question, *chat.tail]
            reason = ""
            if says_nothing(pair["answer"]) or not answer:
                reason = "EmptyAnswer"
            elif len(prompt) + len(answer) > max_tokens:
                reason = "TooLong"
            conditional = Span.of([*prompt, *answer], len(prompt))
            found.append(Measured(conditional, Span.of([*header, *answer], len(header)), reason))
        return found

    return measure


def reference_measure(
    chat: ChatFormat, max_tokens: int, frame: Callable[[str], str] | None = None, alone_frame: str | None = None
) -> Measure:
    """The published code's arithmetic: prefix and answer tokenised as one text and cut at `max_tokens`, the start of
    the answer found from the prefix alone, the text alone cut at `max_tokens` - prefix + 4. `frame` and `alone_frame`
    replace the chat format around the question and before the answer.
    """
    frame = frame or chat.render_prompt
    lead = chat.assistant_header_text if alone_frame is None else alone_frame
    lead_tokens = len(chat.joint(lead))

    def measure(pairs: Sequence[Row]) -> list[Measured]:
        prefixes = [frame(pair["question"]) for pair in pairs]
        answers = [pair["answer"] for pair in pairs]
        starts = [len(ids) for ids in chat.joint_all(prefixes)]
        wholes = chat.joint_all([prefix + answer for prefix, answer in zip(prefixes, answers, strict=True)])
        alones = chat.joint_all([lead + answer for answer in answers])
        found = []
        for start, whole, alone in zip(starts, wholes, alones, strict=True):
            room = max_tokens - min(start, max_tokens) + 4
            conditional, by_itself = Span.of(whole[:max_tokens], start), Span.of(alone[:room], lead_tokens)
            reason = ""
            if not (conditional.scored and by_itself.scored):
                reason = "TooLong" if start >= max_tokens else "EmptyAnswer"
            found.append(Measured(conditional, by_itself, reason))
        return found

    return measure
