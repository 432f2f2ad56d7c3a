"""Evaluation items: held-out questions with their answers."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evolution_trainer import records
from evolution_trainer.documents import encodable
from evolution_trainer.failure import StageFailed
from evolution_trainer.records import Record, read_records, shown

FORMS = (("question", "answer"), ("input", "output"))
"""Names of the fields of an item: our own, and those of the published Self-Evolution data."""


@dataclass(frozen=True)
class Item:
    origin: str
    question: str
    answer: str


def read_items(path: Path) -> Iterator[Item]:
    """The items of a .jsonl, .json or .parquet file in their order.

    Raises:
        StageFailed: EvaluationInvalid, for the first item that lacks something, or when there is none.
    """
    if path.is_dir() or path.suffix.lower() not in records.SUFFIXES:
        kind = "a folder" if path.is_dir() else f"a {path.suffix} file" if path.suffix else "a file without suffix"
        raise _invalid(
            f"{path}: is {kind}; evaluation.uri must name a {', '.join(sorted(records.SUFFIXES))} file of items"
        )
    empty = True
    for record in read_records(path, path.name):
        if not isinstance(record, Record):
            raise _invalid(f"{record.origin}: {record.detail}")
        yield _item(record)
        empty = False
    if empty:
        raise _invalid(f'{path.name}: holds no item; a line of a .jsonl file is {{"question": "…", "answer": "…"}}')


def _item(record: Record) -> Item:
    question, answer = next((form for form in FORMS if any(name in record.fields for name in form)), FORMS[0])
    return Item(record.origin, _text(record, question), _text(record, answer))


def _text(record: Record, name: str) -> str:
    if name not in record.fields:
        there = ", ".join(map(repr, record.fields)) or "nothing"
        raise _invalid(f"{record.origin}: has no {name!r}, but {there}; an item has a question and an answer")
    value: Any = record.fields[name]
    if not isinstance(value, str):
        raise _invalid(f"{record.origin}: {name!r} is {shown(value)}; it must be text")
    if not value.strip():
        raise _invalid(f"{record.origin}: {name!r} is empty; an item has a question and an answer")
    if not encodable(value):
        raise _invalid(
            f"{record.origin}: {name!r} holds half of a surrogate pair (\\ud800 to \\udfff alone), which is no text"
        )
    return value.strip()


def _invalid(message: str) -> StageFailed:
    return StageFailed("EvaluationInvalid", message)
