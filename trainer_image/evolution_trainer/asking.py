"""Asking about documents: in waves the model writes questions, answers them with the document at hand and, where only
what it does not know is wanted, without it.

What is known of the documents lies in a file with a row for each, written anew after every step; nothing of it is
worth saving, since it follows from the journals of the replies.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

from evolution.store.artifacts import digest_file
from evolution_trainer.by_document import ByDocument
from evolution_trainer.candidates import Choice, Chooser, candidate, good, untouched, wants, waves
from evolution_trainer.clean import clean_answer, clean_question
from evolution_trainer.prompts import answer_prompt, question_prompt, render
from evolution_trainer.rests import rests_in
from evolution_trainer.rows import Row, read_rows
from evolution_trainer.stage import StageRun
from evolution_trainer.writer import Manner, Request, Writer

SHORTEST_RECALL = 16
"""Tokens that the model may at least use for an answer from memory."""


class GenerateParameters(Choice):
    seed: int
    round: int
    temperature: float
    answer_temperature: float
    top_p: float
    max_tokens: int
    question_prompt: str
    answer_prompt: str


@dataclass(frozen=True)
class Step:
    """One thing that is asked of the model about every document."""

    name: str
    """What it is that is asked for, in the plural."""
    manner: Manner
    count: Callable[[Row], int]
    """How many replies a document needs, given what is known of it."""
    requests: Callable[[Row, Row], list[Request]]
    """What is asked about a document (row of `documents`), given what is known of it."""
    settle: Callable[[Row, Row, list[Row]], None]
    """Notes the replies in what is known of the document."""


@dataclass(frozen=True)
class Asking:
    """The documents from `start` to `end` (numbers in the order of `documents`)."""

    stage: StageRun
    parameters: GenerateParameters
    writer: Writer
    start: int
    end: int

    def run(self) -> Path:
        """A file with a row for each document: what became of its candidates."""
        known = self._beginning()
        all_waves = list(waves(self.parameters))
        for number, wave in enumerate(all_waves, start=1):
            note = f"wave {number} of {len(all_waves)}" if len(all_waves) > 1 else ""
            if not any(wants(state, self.parameters) for state in read_rows(known)):
                break
            for step in self._steps(wave):
                known = self._do(step, number, known, note)
        return known

    def _do(self, step: Step, wave: int, known: Path, note: str) -> Path:
        total, done = sum(step.count(state) for state in read_rows(known)), 0

        def on_done(more: int) -> None:
            nonlocal done
            done += more
            if more:
                self.stage.progress(step.name, done, total, note)

        requests = (one for document, state in self._joined(known) for one in step.requests(document, state))
        name = f"{step.manner.purpose}-{wave}"
        # Replies of an interrupted worker count only if they follow from the very same: a GPU may have asked others.
        journal = f"{name}-{digest_file(known)[0][:16]}"
        replies = read_rows(self.writer.write(journal, step.manner, requests, on_done))
        with self.stage.rows_out(f"known-{name}") as out:
            for document, state in self._joined(known):
                step.settle(document, state, list(islice(replies, step.count(state))))
                out(state)
        known.unlink()
        return self.stage.scratch / f"known-{name}.jsonl"

    def _joined(self, known: Path) -> Iterator[tuple[Row, Row]]:
        return zip(self._documents(), read_rows(known), strict=True)

    @cached_property
    def _file(self) -> Path:
        """The documents, compared with their digest once and not in every step."""
        return self.stage.input("documents")

    def _documents(self) -> Iterator[Row]:
        return islice(read_rows(self._file), self.start, self.end)

    def _beginning(self) -> Path:
        """What is known of the documents before anything is asked: pairs of earlier rounds, and whether they rest."""
        inputs = self.stage.inputs
        earlier = [
            ByDocument(read_rows(self.stage.input(name))) for name in sorted(inputs) if name.startswith("pairs.")
        ]
        rests = ByDocument(read_rows(self.stage.input("rests")) if "rests" in inputs else iter(()))
        with self.stage.rows_out("known") as out:
            for number, document in enumerate(islice(read_rows(self._file), self.end)):
                id_ = document["id"]
                pairs = [pair for rows in earlier for pair in rows.take(id_)]
                rest = next(iter(rests.take(id_)), None)
                if number >= self.start:
                    out(untouched(id_, pairs, resting=rests_in(rest, self.parameters.round)))
        return self.stage.scratch / "known.jsonl"

    def _steps(self, wave: range) -> list[Step]:
        steps = [self._questions(wave), self._answers(wave)]
        return [*steps, self._recall(wave)] if self.parameters.focus == "Unknown" else steps

    def _questions(self, wave: range) -> Step:
        parameters = self.parameters

        def count(state: Row) -> int:
            return len(wave) if wants(state, parameters) else 0

        def requests(document: Row, state: Row) -> list[Request]:
            if not count(state):
                return []
            template = parameters.question_prompt or question_prompt(document["language"])
            text = document["text"]
            prompt = render(template, document=text)
            return [Request(f"{document['id']}-q{n}", prompt, text, parameters.max_tokens) for n in wave]

        def settle(document: Row, state: Row, replies: list[Row]) -> None:
            state["candidates"] += [
                candidate(document["id"], n, reply["text"], reply["reason"])
                for n, reply in zip(wave, replies, strict=False)
            ]
            Chooser(parameters, wave, state, document["text"]).judge_questions()

        adapter = self.stage.inputs.get("adapter")
        return Step(
            "questions", Manner("question", adapter, parameters.temperature, clean_question), count, requests, settle
        )

    def _answers(self, wave: range) -> Step:
        parameters = self.parameters

        def count(state: Row) -> int:
            return len(good(state, wave))

        def requests(document: Row, state: Row) -> list[Request]:
            template, text = parameters.answer_prompt or answer_prompt(document["language"]), document["text"]
            return [
                Request(
                    one["id"], render(template, document=text, question=one["question"]), text, parameters.max_tokens
                )
                for one in good(state, wave)
            ]

        def settle(document: Row, state: Row, replies: list[Row]) -> None:
            for one, reply in zip(good(state, wave), replies, strict=True):
                one |= {"answer": reply["text"], "answered": True, "reason": reply["reason"]}
            chooser = Chooser(parameters, wave, state, document["text"])
            chooser.judge_answers()
            if parameters.focus != "Unknown":
                chooser.keep({})

        manner = Manner("answer", self.stage.inputs.get("adapter"), parameters.answer_temperature, clean_answer)
        return Step("answers", manner, count, requests, settle)

    def _recall(self, wave: range) -> Step:
        """What the learner answers without the document, as far as it takes to compare."""
        parameters, chat = self.parameters, self.stage.session.chat

        def count(state: Row) -> int:
            return len(good(state, wave))

        def requests(_: Row, state: Row) -> list[Request]:
            return [
                Request(
                    one["id"], one["question"], "", min(parameters.max_tokens, _room(len(chat.plain(one["answer"]))))
                )
                for one in good(state, wave)
            ]

        def settle(document: Row, state: Row, replies: list[Row]) -> None:
            from_memory = {reply["id"]: reply["text"] for reply in replies if not reply["reason"]}
            Chooser(parameters, wave, state, document["text"]).keep(from_memory)

        return Step(
            "answers from memory",
            Manner("recall", self.stage.inputs.get("learner"), 0.0, clean_answer),
            count,
            requests,
            settle,
        )


def _room(tokens: int) -> int:
    """Tokens that an answer from memory may have: twice as many as the one with the document, rounded up to a power of
    two. What is longer says something else, and is not worth waiting for.
    """
    return max(SHORTEST_RECALL, 1 << (2 * tokens - 1).bit_length())
