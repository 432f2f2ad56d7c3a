"""The stage `Generate`: the model asks questions about every document, then answers them with the document at hand."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from pydantic import JsonValue

from evolution.plan.manifest import Artifact
from evolution_trainer.asking import Asking, GenerateParameters
from evolution_trainer.by_document import ByDocument
from evolution_trainer.failure import StageFailed
from evolution_trainer.lengths import Lengths
from evolution_trainer.rests import after, rests_in
from evolution_trainer.rows import Row, count_rows, read_rows
from evolution_trainer.stage import Output, Result, RowWriter, StageRun
from evolution_trainer.writer import opened_writer

NOTHING_NEW = frozenset({"KnownAlready", "NotNovel"})
"""Reasons that speak for the model, not against it."""


def run(stage: StageRun) -> Result:
    """Inputs: documents, model[, adapter][, learner][, pairs.N]...[, rests]. Outputs: pairs, rejects[, rests].

    Raises:
        StageFailed: NoPairs, if not one pair was kept; NothingNew, if that is because the model knows everything in
            the first round (in a later one there are no pairs, and a warning).
    """
    part = run_part(stage, 0, 1)
    return merge(stage, [Part(part.outputs["answers"].path, part.outputs["rejects"].path)])


def run_part(stage: StageRun, shard: int, shards: int) -> Result:
    """The share of one of several workers: a run of consecutive documents. Outputs: answers, good or not, in order, and
    rejects, questions that were not answered.
    """
    parameters = GenerateParameters.model_validate(stage.parameters)
    total = count_rows(stage.input("documents"))
    start, end = shard * total // shards, (shard + 1) * total // shards
    with opened_writer(stage, parameters.rules, (parameters.seed, parameters.round), parameters.top_p) as writer:
        known = Asking(stage, parameters, writer, start, end).run()
    with stage.rows_out("answers") as answers, stage.rows_out("question-rejects") as rejects:
        for state in read_rows(known):
            for one in state["candidates"]:
                row = {"document": state["document"], **{name: one[name] for name in ("question", "answer", "reason")}}
                if one["answered"]:
                    answers({"id": one["id"], **row, **_tokens(stage, one)})
                else:
                    rejects(row)
    return Result(
        outputs={
            "answers": Output(stage.scratch / "answers.jsonl", answers.count),
            "rejects": Output(stage.scratch / "question-rejects.jsonl", rejects.count),
        },
        metrics={"documents": end - start, "questions": answers.count},
    )


def _tokens(stage: StageRun, one: Row) -> Row:
    """How long a good pair is: told by the worker that has asked for it, which has read the model's tokenizer."""
    if one["reason"]:
        return {}
    question, answer = stage.session.chat.plain_all([one["question"], one["answer"]])
    return {"questionTokens": len(question), "answerTokens": len(answer)}


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
        StageFailed: NoPairs, NothingNew.
    """
    parameters = GenerateParameters.model_validate(stage.parameters)
    documents = count_rows(stage.input("documents"))
    kept: set[int] = set()  # hashes, since the texts of all pairs do not fit into memory
    with stage.rows_out("rejects") as write, stage.rows_out("pairs") as pairs:
        rejects = Rejects(write)
        for row in chain.from_iterable(read_rows(part.rejects) for part in parts):
            rejects.question(row)
        questions, covered, last = 0, 0, ""
        lengths = {name: Lengths() for name in ("questionTokens", "answerTokens")}
        for row in chain.from_iterable(read_rows(part.answers) for part in parts):
            questions += 1
            id_, reason = row.pop("id"), row["reason"]
            tokens = {name: row.pop(name) for name in lengths if name in row}
            content = hash((row["question"], row["answer"]))
            if not reason and parameters.rules != "Reference" and content in kept:
                reason = "Duplicate"
            if reason:
                rejects.answer({**row, "reason": reason})
                continue
            kept.add(content)
            covered += row["document"] != last  # those of a document follow one another
            last = row["document"]
            for name, length in tokens.items():
                lengths[name].add(length)
            pairs({"id": id_, "document": row["document"], "question": row["question"], "answer": row["answer"]})
    metrics: dict[str, JsonValue] = {
        "documents": documents,
        "questions": questions,
        "pairs": pairs.count,
        "rejects": {kind: dict(sorted(counts.items())) for kind, counts in rejects.counts.items()},
        "coverage": {"documents": documents, "covered": covered},
        **{name: {**each.quantiles()} for name, each in lengths.items()},
    }
    outputs = {
        "pairs": Output(stage.scratch / "pairs.jsonl", pairs.count),
        "rejects": Output(stage.scratch / "rejects.jsonl", write.count),
    }
    warnings: list[str] = []
    resting = 0
    if parameters.focus != "Any":
        with stage.rows_out("rests") as rests:
            resting = _note_rests(stage, parameters.round, rests)
        outputs["rests"] = Output(stage.scratch / "rests.jsonl", rests.count)
        metrics |= {"exhausted": rests.count - resting, "resting": resting}
    if not pairs.count:
        known = resting or any(NOTHING_NEW & counts.keys() for counts in rejects.counts.values())
        if not known:
            raise StageFailed("NoPairs", _no_pairs(parameters, documents, rejects))
        message = f"nothing new was found in {documents} documents ({resting} rested); {rejects}"
        if "rests" not in stage.inputs:
            raise StageFailed(
                "NothingNew",
                f"{message}. The model knows these documents as far as it can ask about them; set generation.focus to "
                "Any to train on them all the same, or take other documents",
            )
        warnings.append(f"{message}. Only pairs of earlier rounds are left to train on: more rounds change little")
    return Result(outputs, metrics, warnings)


def _no_pairs(parameters: GenerateParameters, documents: int, rejects: "Rejects") -> str:
    wanted = documents * parameters.questions_per_document
    return (
        f"none of the {wanted} questions about {documents} documents became a pair; {rejects}. "
        "Look at generation.prompts and generation.maxTokens, and whether the model follows instructions"
    )


def _note_rests(stage: StageRun, round_: int, write: RowWriter) -> int:
    """Write which documents rest from here on; returns how many rested in this round already."""
    before = ByDocument(read_rows(stage.input("rests")) if "rests" in stage.inputs else iter(()))
    pairs = ByDocument(read_rows(stage.scratch / "pairs.jsonl"))
    resting = 0
    for id_ in _ids(stage):
        rest = next(iter(before.take(id_)), None)
        resting += rests_in(rest, round_)
        noted = after(rest, id_, round_, gave=bool(pairs.take(id_)))
        if noted:
            write(noted)
    return resting


def _ids(stage: StageRun) -> Iterator[str]:
    return (document["id"] for document in read_rows(stage.input("documents")))


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
