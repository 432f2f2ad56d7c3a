"""The stage `Prepare`: what a run names outside its store is read, checked and fixed, so that it stays as it is."""

import sqlite3
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import JsonValue

from evolution.plan.manifest import Record
from evolution.plan.stage import canonical_json, sha256
from evolution.plan.worker import ExitCode
from evolution_trainer import model_files
from evolution_trainer.documents import Documents
from evolution_trainer.duplicates import Chunks
from evolution_trainer.failure import StageFailed
from evolution_trainer.items import read_items
from evolution_trainer.records import Unusable
from evolution_trainer.splitting import split
from evolution_trainer.stage import Output, Result, RowWriter, StageRun
from evolution_trainer.timing import brought_here


class DocumentParameters(Record):
    uri: str
    field: str
    max_tokens: int
    on_invalid: Literal["Fail", "Skip"]
    rules: Literal["Default", "Reference"]


def run(stage: StageRun) -> Result:
    """Prepare the source that the parameters name; see the function of that name for its outputs.

    Raises:
        StageFailed: the source cannot be used; the message tells which file or line of it, and why.
        SourceUnusable: nothing can be read there.
    """
    match stage.parameters["source"]:
        case "Model":
            return model(stage)
        case "Adapter":
            return adapter(stage)
        case "Documents":
            try:
                return documents(stage)
            except sqlite3.OperationalError as error:
                message = (
                    f"{stage.scratch}: {error} (scratch space for sorting the documents; EVOLUTION_CACHE moves it)"
                )
                raise StageFailed("ScratchUnusable", message, ExitCode.STORE_UNAVAILABLE) from error
        case "Evaluation":
            return evaluation(stage)
        case source:
            raise StageFailed(
                "OrderInvalid", f"{stage.id}: there is no source {source!r} to prepare", ExitCode.BAD_SPEC
            )


def model(stage: StageRun) -> Result:
    """Output: model, a listing of the model's files by digest. The weights stay where they are."""
    listing = model_files.listing(stage.session.folder, lambda done, total: stage.progress("files", done, total))
    path = stage.scratch / "model.json"
    path.write_bytes(canonical_json(listing))
    metrics: dict[str, JsonValue] = {name: listing[name] for name in ("architecture", "parameters", "vocabulary")}
    metrics |= {"files": len(listing["files"]), "bytes": sum(file["size"] for file in listing["files"])}
    return Result({"model": Output(path)}, metrics)


def adapter(stage: StageRun) -> Result:
    """Input: model. Output: adapter, a PEFT folder that fits the model."""
    source = _source(stage)
    folder = stage.scratch / "adapter"
    model_files.prepare_adapter(source, stage.session.folder, folder)
    return Result(
        {"adapter": Output(folder, 2)}, {"files": 2, "bytes": sum(f.stat().st_size for f in folder.iterdir())}
    )


def documents(stage: StageRun) -> Result:
    """Input: model, for its tokenizer. Outputs: documents, sources, rejects.

    `documents` are chunks of at most `maxTokens`, sorted by id; under rules Reference in the order of the source, with
    texts and duplicates as they are. `sources` tells where each came from. `rejects` are documents that cannot be read
    (counted by reason) and near duplicates (reason NearDuplicate, with the id of the document that says the same).
    """
    parameters = DocumentParameters.model_validate(stage.parameters)
    reference = parameters.rules == "Reference"
    raw = Documents(_source(stage), field=parameters.field, verbatim=reference)
    count = _token_counter(stage)
    read, rejected = 0, Counter[str]()
    with (
        Chunks(stage.scratch / "chunks.sqlite", unique=not reference) as chunks,
        stage.rows_out("rejects") as rejects,
        stage.rows_out("documents") as rows,
        stage.rows_out("sources") as sources,
    ):
        for document in raw:
            if isinstance(document, Unusable):
                _reject(document, parameters.on_invalid, rejects)
                rejected[document.reason] += 1
                continue
            read += 1
            for text in split(document.text, parameters.max_tokens, count):
                chunks.add(text, document.origin)
            stage.progress("documents", read, 0, f"{rejected.total()} rejected" if rejected else "")
        if not read:
            raise StageFailed(
                "DocumentInvalid",
                f"{parameters.uri}: not one document can be used; {_in_words(rejected) or 'the files hold none'}",
            )
        near = 0
        for duplicate in () if reference else chunks.remove_near_duplicates():
            near += 1
            for source in duplicate.sources:
                rejects({"source": source, "reason": "NearDuplicate", "detail": f"says what {duplicate.kept} says"})
            stage.progress("near duplicates", near, 0)
        characters, total = 0, chunks.count
        for chunk in chunks.in_order() if reference else chunks.by_id():
            rows({"id": chunk.id, "text": chunk.text, "language": chunk.language})
            characters += len(chunk.text)
            stage.progress("chunks", rows.count, total)
        for id_, source in chunks.sources():
            sources({"id": id_, "source": source})
    written = {"documents": rows, "sources": sources, "rejects": rejects}
    return Result(
        outputs={name: Output(stage.scratch / f"{name}.jsonl", writer.count) for name, writer in written.items()},
        metrics={
            "documents": read,
            "chunks": rows.count,
            "duplicates": chunks.duplicates,
            "nearDuplicates": near,
            "rejects": dict(sorted(rejected.items())),
            "characters": characters,
        },
        warnings=_warnings(stage, parameters, raw, rejected),
    )


def evaluation(stage: StageRun) -> Result:
    """Output: items, in the order of the file."""
    path = _source(stage)
    seen: Counter[str] = Counter()
    with stage.rows_out("items") as items:
        for item in read_items(path):
            id_ = sha256(canonical_json([item.question, item.answer]))[:16]
            seen[id_] += 1
            number = f"-{seen[id_]}" if seen[id_] > 1 else ""
            items({"id": f"{id_}{number}", "question": item.question, "answer": item.answer})
            stage.progress("items", items.count, 0)
    repeated = items.count - len(seen)
    warnings = (
        [f"{repeated} of {items.count} evaluation items are repetitions; they count as often as they occur"]
        if repeated
        else []
    )
    return Result({"items": Output(stage.scratch / "items.jsonl", items.count)}, {"items": items.count}, warnings)


def _source(stage: StageRun) -> Path:
    return brought_here(str(stage.parameters["uri"]), stage.session.cache, stage.progress, stage.session.clock)


def _reject(document: Unusable, on_invalid: Literal["Fail", "Skip"], rejects: RowWriter) -> None:
    if on_invalid == "Fail":
        raise StageFailed(
            "DocumentInvalid",
            f"{document.origin}: {document.detail}. Mend or remove it, or set documents.onInvalid: Skip to leave out "
            "and count what cannot be used",
        )
    rejects({"source": document.origin, "reason": document.reason, "detail": document.detail})


def _token_counter(stage: StageRun) -> Callable[[str], int]:
    tokenizer = stage.session.tokenizer

    def count(text: str) -> int:
        ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
        return len(ids)

    return count


def _warnings(
    stage: StageRun, parameters: DocumentParameters, documents: Documents, rejected: Counter[str]
) -> list[str]:
    warnings = []
    if documents.left_out:
        warnings.append(f"files of other kinds were left out: {_in_words(documents.left_out)}")
    if rejected:
        warnings.append(f"documents were skipped: {_in_words(rejected)}")
    if parameters.max_tokens >= stage.session.window:
        warnings.append(
            f"documents.maxTokens is {parameters.max_tokens}, but the model was made for {stage.session.window} "
            "tokens, prompt and reply included: longer documents cannot be asked about"
        )
    return warnings


def _in_words(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {what}" for what, count in counts.most_common())
