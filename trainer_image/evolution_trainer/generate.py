"""The stage `Generate`: the model asks questions about every document, then answers them with the document at hand."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Protocol

from pydantic import JsonValue

from evolution.api.run import Preset
from evolution.plan.manifest import Artifact, Record
from evolution_trainer.clean import Cleaned, Rejected, clean_answer, clean_question, question_key
from evolution_trainer.engine import Engine, Reply, opened_engine
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
    part = run_part(stage, 0, 1)
    return merge(stage, [Part(part.outputs["answers"].path, part.outputs["rejects"].path)])


def run_part(stage: StageRun, shard: int, shards: int) -> Result:
    """The share of one of several workers: a run of consecutive documents. Outputs: answers, good or not, in order, and
    rejects, questions that were not answered.
    """
    documents = stage.input("documents")
    adapter = stage.artifacts.fetch_tree(stage.inputs["adapter"]) if "adapter" in stage.inputs else None
    parameters = GenerateParameters.model_validate(stage.parameters)
    total = count_rows(documents)
    start, end = shard * total // shards, (shard + 1) * total // shards
    with (
        stage.rows_out("question-rejects") as rejects,
        opened_engine(stage.session, stage.compute, adapter) as engine,
    ):
        writer = Writer(stage, parameters, engine, rejects)
        with stage.rows_out("questions") as questions:
            for question in writer.ask(
                islice(read_rows(documents), start, end), (end - start) * parameters.questions_per_document
            ):
                questions(question)
        with stage.rows_out("answers") as answers:
            for answer in writer.answer(read_rows(stage.scratch / "questions.jsonl"), questions.count):
                answers(answer)
    return Result(
        outputs={
            "answers": Output(stage.scratch / "answers.jsonl", answers.count),
            "rejects": Output(stage.scratch / "question-rejects.jsonl", rejects.count),
        },
        metrics={"documents": end - start, "questions": questions.count},
    )


@dataclass(frozen=True)
class Part:
    """Files that `run_part` has written."""

    answers: Path
    rejects: Path


def fetched(stage: StageRun, outputs: Mapping[str, Artifact]) -> Part:
    """A part of another worker."""
    return Part(stage.artifacts.fetch(outputs["answers"].digest), stage.artifacts.fetch(outputs["rejects"].digest))


def merge(stage: StageRun, parts: Sequence[Part]) -> Result:
    """What `run` gives, from all parts in the order of their documents: the same bytes, however many they are.

    Raises:
        StageFailed: NoPairs.
    """
    parameters = GenerateParameters.model_validate(stage.parameters)
    documents = count_rows(stage.input("documents"))
    kept: set[int] = set()  # hashes, since the texts of all pairs do not fit into memory
    with stage.rows_out("rejects") as write, stage.rows_out("pairs") as pairs:
        rejects = Rejects(write)
        for part in parts:
            for row in read_rows(part.rejects):
                rejects.question(row)
        questions = 0
        for row in (row for part in parts for row in read_rows(part.answers)):
            questions += 1
            id_, reason = row.pop("id"), row["reason"]
            content = hash((row["question"], row["answer"]))
            if not reason and parameters.rules != "Reference" and content in kept:
                reason = "Duplicate"
            if reason:
                rejects.answer({**row, "reason": reason})
                continue
            kept.add(content)
            pairs({"id": id_, "document": row["document"], "question": row["question"], "answer": row["answer"]})
    metrics: dict[str, JsonValue] = {
        "documents": documents,
        "questions": questions,
        "pairs": pairs.count,
        "rejects": {kind: dict(sorted(counts.items())) for kind, counts in rejects.counts.items()},
    }
    if not pairs.count:
        wanted = documents * parameters.questions_per_document
        raise StageFailed(
            "NoPairs",
            f"none of the {wanted} questions about {documents} documents became a pair; {rejects}. "
            "Look at generation.prompts and generation.maxTokens, and whether the model follows instructions",
        )
    return Result(
        outputs={
            "pairs": Output(stage.scratch / "pairs.jsonl", pairs.count),
            "rejects": Output(stage.scratch / "rejects.jsonl", write.count),
        },
        metrics=metrics,
    )


@dataclass
class Rejects:
    """What was written and not kept, with reasons."""

    write: RowWriter
    counts: dict[str, Counter[str]] = field(default_factory=lambda: {"question": Counter(), "answer": Counter()})

    def question(self, row: Row) -> None:
        self._count("question", row)

    def answer(self, row: Row) -> None:
        self._count("answer", row)

    def _count(self, kind: str, row: Row) -> None:
        self.counts[kind][row["reason"]] += 1
        self.write(row)

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
    reject: RowWriter
    """Takes the questions that cannot be used."""

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
                    self.reject({"document": document["id"], "question": question, "answer": "", "reason": reason})
                    continue
                keys.add(key)
                yield {"id": id_, "document": document, "question": question}

    def answer(self, questions: Iterable[Row], total: int) -> Iterator[Row]:
        """The answers that the model found in the documents: id, document, question, answer, and the reason if it is
        no good.
        """
        template = self.parameters.answer_prompt
        done = 0
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
                answer, reason = self._cleaned(clean_answer, reply, row["document"])
                yield {
                    "id": row["id"],
                    "document": row["document"]["id"],
                    "question": row["question"],
                    "answer": answer,
                    "reason": reason,
                }

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
