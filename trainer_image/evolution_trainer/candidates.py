"""The choice among candidates: what is known of each document, and which questions and answers are kept.

A document's candidates come in waves. The first samples one question for each pair to keep, every further one as many
as all before it together, and only about documents that still lack pairs: an easy document costs what it costs without
candidates, a barren one the full number. What becomes of a candidate depends on its document alone.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from evolution.api.run import Focus, Preset
from evolution.plan.manifest import Record
from evolution_trainer.clean import question_key
from evolution_trainer.grounding import Ground
from evolution_trainer.language import words
from evolution_trainer.metrics import exact_match, rouge_l
from evolution_trainer.rows import Row


class Choice(Record):
    """`spec.generation`, as far as it decides what is kept."""

    rules: Preset
    questions_per_document: int
    candidates: int = 1
    focus: Focus = "Any"
    similarity: float = 1.0

    @property
    def chooses(self) -> bool:
        """Whether there is a choice; else every question and answer in good form is kept."""
        return self.candidates > 1 or self.focus != "Any"


def waves(choice: Choice) -> Iterator[range]:
    """The numbers of the candidates of each wave, counted from 1."""
    last, total = 0, choice.questions_per_document * choice.candidates
    while last < total:
        more = last or choice.questions_per_document
        yield range(last + 1, min(last + more, total) + 1)
        last += more


def untouched(document: str, earlier: list[Row], *, resting: bool) -> Row:
    """What is known of a document before its first candidate; `earlier` are its pairs of the rounds before."""
    return {
        "document": document,
        "resting": resting,
        "asked": [question_key(pair["question"]) for pair in earlier],
        "told": [pair["answer"] for pair in earlier],
        "candidates": [],
    }


def candidate(document: str, number: int, question: str, reason: str) -> Row:
    """A question as it was asked. A candidate without a reason is still wanted; `answered` tells of which kind a
    rejection is.
    """
    id_ = f"{document}-q{number}"
    return {"id": id_, "number": number, "question": question, "answer": "", "answered": False, "reason": reason}


def wants(state: Row, choice: Choice) -> bool:
    """Whether the document still lacks pairs."""
    return not state["resting"] and len(kept(state)) < choice.questions_per_document


def kept(state: Row) -> list[Row]:
    return [one for one in state["candidates"] if not one["reason"]]


def good(state: Row, wave: range) -> list[Row]:
    """The candidates of that wave that are not rejected."""
    return [one for one in kept(state) if one["number"] in wave]


@dataclass(frozen=True)
class Chooser:
    """Gives a document's candidates of one wave their reasons for rejection, in the order of their numbers."""

    choice: Choice
    wave: range
    state: Row
    document: str
    """Its text."""

    def judge_questions(self) -> None:
        """Before they are answered."""
        asked = {question_key(one["question"]) for one in self._earlier() if one["answered"]}
        ground = Ground(self.document)
        for one in good(self.state, self.wave):
            key = question_key(one["question"])
            if key in self.state["asked"]:
                one["reason"] = "NotNovel"
            elif key in asked and (self.choice.chooses or self.choice.rules != "Reference"):
                one["reason"] = "Duplicate"
            elif self.choice.chooses and not ground.holds(one["question"]):
                one["reason"] = "NotGrounded"
            else:
                asked.add(key)

    def judge_answers(self) -> None:
        """Before the model is asked what it knows of them."""
        if not self.choice.chooses:
            return
        ground = Ground(self.document)
        for one in good(self.state, self.wave):
            if not ground.holds(one["answer"]):
                one["reason"] = "NotGrounded"
            elif self.choice.focus == "Novel" and any(self._same(one["answer"], told) for told in self.state["told"]):
                one["reason"] = "NotNovel"

    def keep(self, from_memory: Mapping[str, str]) -> None:
        """Keep what is wanted; `from_memory` is what the model says without the document, by id."""
        if not self.choice.chooses:
            return
        chosen = [one for one in self._earlier() if not one["reason"]]
        for one in good(self.state, self.wave):
            if one["id"] in from_memory and self._same(from_memory[one["id"]], one["answer"]):
                one["reason"] = "KnownAlready"
            elif any(self._same(one["answer"], other["answer"]) for other in chosen):
                one["reason"] = "Duplicate"
            elif len(chosen) == self.choice.questions_per_document:
                one["reason"] = "Surplus"
            else:
                chosen.append(one)

    def _earlier(self) -> list[Row]:
        """Candidates of the waves before."""
        return [one for one in self.state["candidates"] if one["number"] < self.wave.start]

    def _same(self, one: str, other: str) -> bool:
        return same_answer(one, other, self.choice.similarity)


def same_answer(one: str, other: str, similarity: float) -> bool:
    """Whether two answers say the same: equal but for case and punctuation, or as similar as that in ROUGE-L with the
    same names and numbers.
    """
    if exact_match(one, other):
        return True
    if _at_most(one, other) < similarity:
        return False
    return rouge_l(one, other) >= similarity and Ground(one).holds(other) and Ground(other).holds(one)


def _at_most(one: str, other: str) -> float:
    """What ROUGE-L could be at most, judged without looking at the order of words."""
    left, right = (Counter(word.casefold() for word in words(text)) for text in (one, other))
    total = left.total() + right.total()
    return 2 * (left & right).total() / total if total else 0.0
