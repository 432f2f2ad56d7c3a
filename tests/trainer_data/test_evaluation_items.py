"""Evaluation items are read in both forms, and what lacks a question or an answer is named."""

import json
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet
from trainer_data.preparing import Preparation, write_rows

from evolution.plan.worker import ExitCode
from evolution_trainer.failure import StageFailed


def items(preparation: Preparation, path: Path) -> list[tuple[str, str]]:
    rows = preparation.run(source="Evaluation", uri=str(path), revision="").rows("items")
    return [(row["question"], row["answer"]) for row in rows]


ROWS = [{"question": "Where?", "answer": "Here"}, {"question": "Who?", "answer": "Nomo", "level": 3}]


def test_items_keep_the_order_of_their_file(preparation: Preparation, tmp_path: Path) -> None:
    expected = [("Where?", "Here"), ("Who?", "Nomo")]
    assert items(preparation, write_rows(tmp_path / "items.jsonl", ROWS)) == expected
    (tmp_path / "items.json").write_text(json.dumps(ROWS, indent=2))
    assert items(preparation, tmp_path / "items.json") == expected
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "items.parquet")
    assert items(preparation, tmp_path / "items.parquet") == expected


def test_the_published_form_asks_its_input_and_expects_its_output(preparation: Preparation, tmp_path: Path) -> None:
    row = {"instruction": "A document about the pump.", "input": "Where?", "output": "Here"}
    assert items(preparation, write_rows(tmp_path / "items.jsonl", [row])) == [("Where?", "Here")]


def test_ids_come_from_the_content_and_repetitions_are_told_apart(preparation: Preparation, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "items.jsonl", [ROWS[0], ROWS[1], ROWS[0]])
    prepared = preparation.run(source="Evaluation", uri=str(path), revision="")
    first, other, again = [row["id"] for row in prepared.rows("items")]
    assert again == f"{first}-2"
    assert other != first
    assert prepared.result.metrics == {"items": 3}
    assert prepared.result.warnings == ["1 of 3 evaluation items are repetitions; they count as often as they occur"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"question": "a", "answer": "b"}\n{"question": "Who?"}\n', "items.jsonl:2: has no 'answer', but 'question'"),
        ('{"answer": "b"}\n', "items.jsonl:1: has no 'question', but 'answer'"),
        ('{"text": "b"}\n', "items.jsonl:1: has no 'question', but 'text'"),
        ('{"question": " ", "answer": "b"}\n', "items.jsonl:1: 'question' is empty"),
        ('{"instruction": "d", "input": "", "output": "b"}\n', "items.jsonl:1: 'input' is empty"),
        ('{"question": "a", "answer": 42}\n', "items.jsonl:1: 'answer' is 42 (a number); it must be text"),
        ('{"question": "a", "answer": "\\udc00"}\n', "items.jsonl:1: 'answer' holds half of a surrogate pair"),
        ('{"question": "a", "answer"\n', "items.jsonl:1: is not JSON"),
        ("", "items.jsonl: holds no item"),
    ],
)
def test_an_item_that_lacks_something_is_named_with_its_line(
    preparation: Preparation, tmp_path: Path, content: str, words: str
) -> None:
    (tmp_path / "items.jsonl").write_text(content)
    with pytest.raises(StageFailed) as failure:
        items(preparation, tmp_path / "items.jsonl")
    assert words in str(failure.value)
    assert (failure.value.reason, failure.value.code) == ("EvaluationInvalid", ExitCode.BAD_INPUT)


@pytest.mark.parametrize("name", ["folder", "items.csv", "items"])
def test_other_kinds_of_evaluation_files_are_refused(preparation: Preparation, tmp_path: Path, name: str) -> None:
    if name == "folder":
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).write_text("question,answer\n")
    with pytest.raises(StageFailed, match=r"evaluation\.uri must name a \.json, \.jsonl, \.parquet file"):
        items(preparation, tmp_path / name)
