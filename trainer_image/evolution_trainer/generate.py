"""The stage `Generate`: the model asks questions about every document, then answers them with the document at hand."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pydantic import JsonValue

from evolution.api.run import Preset
from evolution.plan.manifest import Record
from evolution_trainer.clean import Cleaned, Rejected, clean_answer, clean_question, question_key
from evolution_trainer.engine import Engine, Reply
from evolution_trainer.failure import StageFailed
from evolution_trainer.prompts import answer_prompt, question_prompt, render
from evolution_trainer.rows import Row, count_rows, read_rows, windows
from evolution_trainer.seeds import seed
from evolution_trainer.stage import Output, Result, RowWriter, StageRun

WINDOW = 256
"""Questions that are in memory at once, with their documents."""


class Clean(Protocol):
    def __call__(self, raw: str, *, finished: bool, document: str, rules: Preset) -> Cleaned | Rejected: ...


class GenerateParameters(Record):
    seed: int
    round: int
    rules: Preset
    questions_per_document: int
    temperature: float
    answer_temperature: float
    top_p: float
    max_tokens: int
    question_prompt: str
    answer_prompt: str


def run(stage: StageRun) -> Result:
    """Inputs: documents, model[, adapter]. Outputs: pairs, rejects.

    Raises:
        StageFailed: NoPairs, if not one pair was kept.
    """
    documents = stage.input("documents")
    adapter = stage.artifacts.fetch_tree(stage.inputs["adapter"]) if "adapter" in stage.inputs else None
    parameters = GenerateParameters.model_validate(stage.parameters)
    total = count_rows(documents)
    wanted = total * parameters.questions_per_document
    with stage.rows_out("rejects") as rejects, stage.session.adapted(adapter) as model:
        writer = Writer(stage, parameters, Engine(stage.session, model), Rejects(rejects))
        with stage.rows_out("questions") as questions:
            for question in writer.ask(read_rows(documents), wanted):
                questions(question)
        with stage.rows_out("pairs") as pairs:
            for pair in writer.answer(read_rows(stage.scratch / "questions.jsonl"), questions.count):
                pairs(pair)
    metrics: dict[str, JsonValue] = {
        "documents": total,
        "questions": questions.count,
        "pairs": pairs.count,
        "rejects": {kind: dict(sorted(counts.items())) for kind, counts in writer.rejects.counts.items()},
    }
    if not pairs.count:
        raise StageFailed(
            "NoPairs",
            f"none of the {wanted} questions about {total} documents became a pair; {writer.rejects}. "
            "Look at generation.prompts and generation.maxTokens, and whether the model follows instructions",
        )
    return Result(
        outputs={
            "pairs": Output(stage.scratch / "pairs.jsonl", pairs.count),
            "rejects": Output(stage.scratch / "rejects.jsonl", rejects.count),
        },
        metrics=metrics,
    )


@dataclass
class Rejects:
    """What was written and not kept, with reasons."""

    write: RowWriter
    counts: dict[str, Counter[str]] = field(default_factory=lambda: {"question": Counter(), "answer": Counter()})

    def question(self, document: str, question: str, reason: str) -> None:
        self.counts["question"][reason] += 1
        self.write({"document": document, "question": question, "answer": "", "reason": reason})

    def answer(self, document: str, question: str, answer: str, reason: str) -> None:
        self.counts["answer"][reason] += 1
        self.write({"document": document, "question": question, "answer": answer, "reason": reason})

    def __str__(self) -> str:
        return "; ".join(
            f"{kind}s rejected: " + (", ".join(f"{n} {reason}" for reason, n in counts.most_common()) or "none")
            for kind, counts in self.counts.items()
        )


@dataclass
class Writer:
    """The model as a writer of questions and answers."""

    stage: StageRun
    parameters: GenerateParameters
    engine: Engine
    rejects: Rejects

    def ask(self, documents: Iterable[Row], total: int) -> Iterator[Row]:
        """Usable questions, at most `questionsPerDocument` about each document: id, document, question."""
        template = self.parameters.question_prompt
        numbers = range(1, self.parameters.questions_per_document + 1)
        slots = ((f"{document['id']}-q{k}", document) for document in documents for k in numbers)
        done = 0
        of_document = ""
        keys: set[str] = set()
        for window in windows(slots, WINDOW):
            prompts = [
                render(template or question_prompt(document["language"]), document=document["text"])
                for _, document in window
            ]
            on_done = _counting(self.stage, "questions", done, total)
            replies = self._write("question", [id_ for id_, _ in window], prompts, on_done)
            done += len(window)
            for (id_, document), reply in zip(window, replies, strict=True):
                if document["id"] != of_document:
                    of_document, keys = document["id"], set()
                question, reason = self._cleaned(clean_question, reply, document)
                key = question_key(question)
                if not reason and not self._reference and key in keys:
                    reason = "Duplicate"
                if reason:
                    self.rejects.question(document["id"], question, reason)
                    continue
                keys.add(key)
                yield {"id": id_, "document": document, "question": question}

    def answer(self, questions: Iterable[Row], total: int) -> Iterator[Row]:
        """Pairs: a question with the answer that the model found in the document."""
        template = self.parameters.answer_prompt
        done = 0
        kept: set[int] = set()  # hashes, since the texts of all pairs do not fit into memory
        for window in windows(questions, WINDOW):
            prompts = [
                render(
                    template or answer_prompt(row["document"]["language"]),
                    document=row["document"]["text"],
                    question=row["question"],
                )
                for row in window
            ]
            on_done = _counting(self.stage, "answers", done, total)
            replies = self._write("answer", [row["id"] for row in window], prompts, on_done)
            done += len(window)
            for row, reply in zip(window, replies, strict=True):
                document, question = row["document"]["id"], row["question"]
                answer, reason = self._cleaned(clean_answer, reply, row["document"])
                content = hash((question, answer))
                if not reason and not self._reference and content in kept:
                    reason = "Duplicate"
                if reason:
                    self.rejects.answer(document, question, answer, reason)
                    continue
                kept.add(content)
                yield {"id": row["id"], "document": document, "question": question, "answer": answer}

    @property
    def _reference(self) -> bool:
        return self.parameters.rules == "Reference"

    def _cleaned(self, clean: Clean, reply: Reply | None, document: Row) -> tuple[str, str]:
        """Text and reason for its rejection; no reason: it is good."""
        if reply is None:
            return "", "TooLong"
        cleaned = clean(reply.text, finished=reply.finished, document=document["text"], rules=self.parameters.rules)
        return (cleaned.text, "") if isinstance(cleaned, Cleaned) else (reply.text, cleaned.reason)

    def _write(
        self, purpose: str, ids: Sequence[str], contents: Sequence[str], on_done: Callable[[int], None]
    ) -> list[Reply | None]:
        """The model's replies; None where the prompt leaves no room in its window."""
        parameters, chat = self.parameters, self.stage.session.chat
        tokenise = chat.joint_prompt if self._reference else chat.prompt
        prompts = [tokenise(content) for content in contents]
        fitting = [i for i, prompt in enumerate(prompts) if self.engine.fits(prompt)]
        replies = self.engine.generate(
            [prompts[i] for i in fitting],
            [seed(parameters.seed, parameters.round, purpose, ids[i]) for i in fitting],
            temperature=parameters.temperature if purpose == "question" else parameters.answer_temperature,
            top_p=parameters.top_p,
            max_tokens=parameters.max_tokens,
            on_done=on_done,
        )
        written = dict(zip(fitting, replies, strict=True))
        return [written.get(i) for i in range(len(contents))]


def _counting(stage: StageRun, phase: str, before: int, total: int) -> Callable[[int], None]:
    done = before

    def on_done(more: int) -> None:
        nonlocal done
        done += more
        stage.progress(phase, done, total)

    return on_done
