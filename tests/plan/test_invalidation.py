"""Editing a field runs exactly the stages again whose meaning it changes; reverting the edit runs none."""

from pathlib import Path

import pytest
import spec_fields
from invalidation import BEFORE, EDITS, edited, fields, table
from simulated import World, make_run

DOCS = Path(__file__).parents[2] / "docs" / "run-file.md"


def test_every_field_of_the_spec_has_an_edit() -> None:
    assert sorted(EDITS) == sorted(fields())


def test_the_table_in_the_docs_is_what_the_code_does() -> None:
    assert table() in DOCS.read_text(encoding="utf-8"), "docs/run-file.md is stale; paste: python tests/invalidation.py"


def test_the_fields_in_the_docs_are_those_of_the_types() -> None:
    wanted = spec_fields.table()
    assert wanted in DOCS.read_text(encoding="utf-8"), "docs/run-file.md is stale; paste: python tests/spec_fields.py"


@pytest.mark.parametrize("path", list(EDITS))
def test_reverting_an_edit_runs_nothing(path: str) -> None:
    world = World()
    before, after = make_run(BEFORE), make_run(edited(path))
    world.run_to_the_end(before)
    world.run_to_the_end(after)
    assert world.run_to_the_end(before) == []


@pytest.mark.parametrize("path", ["evaluation.uri", "evaluation.metrics", "evaluation.maxTokens"])
def test_a_new_way_to_evaluate_trains_nothing_again(path: str) -> None:
    world = World()
    world.run_to_the_end(make_run(BEFORE))
    kinds = {stage.kind.value for stage in world.run_to_the_end(make_run(edited(path)))}
    assert kinds <= {"Prepare", "Evaluate"}


def test_a_new_learning_rate_keeps_the_pairs_of_round_1() -> None:
    world = World()
    world.run_to_the_end(make_run(BEFORE))
    again = {stage.id for stage in world.run_to_the_end(make_run(edited("training.learningRate")))}
    assert "r1-generate" not in again
    assert {"r1-train", "r2-generate"} <= again
