"""Arms from the command line: what they set in the run, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from simulated import MINIMAL, merged

from evolution.api.errors import InvalidRun
from evolution.compare.arms import BUILT_IN, Member, built_in_arm, members, parse_arm
from evolution.compare.fairness import warnings

EQUAL = {"training": {"maxSteps": 90}, "gate": {"patience": 0}}
HEAD = {"apiVersion": "selfevolution.io/v1alpha1", "kind": "EvolutionRun"}


def run_file(folder: Path, spec: dict[str, Any] | None = None, name: str = "manuals") -> Path:
    file = folder / "run.yaml"
    document = {**HEAD, "metadata": {"name": name}, "spec": merged(MINIMAL, spec or {})}
    file.write_text(yaml.safe_dump(document), encoding="utf-8")
    return file


def planned(file: Path, *arms: str, seeds: tuple[int, ...] = ()) -> dict[str, Member]:
    """By name of the run."""
    return {m.run.metadata.name: m for m in members(file, [parse_arm(arm) for arm in arms], seeds)}


def test_every_arm_is_run_with_every_seed_and_seeds_come_one_after_the_other(tmp_path: Path) -> None:
    found = planned(run_file(tmp_path), "file", "hard=selection.strategy=Hard", seeds=(1, 2))
    assert list(found) == ["manuals-file-s1", "manuals-hard-s1", "manuals-file-s2", "manuals-hard-s2"]
    assert [member.run.spec.seed for member in found.values()] == [1, 1, 2, 2]


def test_without_seeds_the_one_of_the_file_counts(tmp_path: Path) -> None:
    assert list(planned(run_file(tmp_path, {"seed": 7}), "a", "b")) == ["manuals-a-s7", "manuals-b-s7"]


def test_an_arm_sets_its_fields_and_leaves_the_others(tmp_path: Path) -> None:
    file = run_file(tmp_path, {"training": {"rank": 4, "alpha": 9}})
    training = "training.rank=64,spec.training.targetModules=[q_proj,v_proj],training.learningRate=1e-3"
    text = f"wide={training},selection.maxIFD=null"
    spec = planned(file, "file", text)["manuals-wide-s0"].run.spec
    assert (spec.training.rank, spec.training.alpha, spec.training.learning_rate) == (64, 9, 1e-3)
    assert spec.training.target_modules == ("q_proj", "v_proj")
    assert spec.selection.max_ifd is None


def test_an_arm_may_take_another_preset_with_all_that_the_file_leaves_open(tmp_path: Path) -> None:
    found = planned(run_file(tmp_path), "ours=preset=Default", "published=preset=Reference")
    assert found["manuals-ours-s0"].run.spec.training.rank == 16
    assert found["manuals-published-s0"].run.spec.training.rank == 8


def test_arms_of_different_presets_are_scored_alike(tmp_path: Path) -> None:
    found = planned(run_file(tmp_path), "file", "published=preset=Reference")
    ours, published = (found[f"manuals-{arm}-s0"].run.spec for arm in ("file", "published"))
    assert published.evaluation == ours.evaluation
    assert published.gate_metric == ours.gate_metric


def test_the_built_in_arms_are_the_strategies_and_the_focuses(tmp_path: Path) -> None:
    file = run_file(tmp_path, {"selection": {"strategy": "Even"}})
    runs = {m.arm: m.run.spec for m in members(file, [built_in_arm(name) for name in BUILT_IN], [1])}
    strategies = {arm: spec.selection.strategy for arm, spec in runs.items()}
    assert [strategies[s.lower()] for s in ("None", "Random", "All", "Hard", "Easy", "Even")] == [
        "None", "Random", "All", "Hard", "Easy", "Even",
    ]  # fmt: skip
    focuses = {arm: (spec.generation.focus, spec.generation.candidates) for arm, spec in runs.items()}
    assert (focuses["novel"], focuses["unknown"], focuses["all"]) == (("Novel", 8), ("Unknown", 8), ("Any", 1))
    assert strategies["unknown"] == "Even"


def test_candidates_of_the_file_are_kept_by_the_focuses(tmp_path: Path) -> None:
    file = run_file(tmp_path, {"generation": {"candidates": 3}})
    [novel, _] = members(file, [built_in_arm("Novel"), built_in_arm("Unknown")], [1])
    assert novel.run.spec.generation.candidates == 3


def test_locations_are_relative_to_the_file_and_nothing_is_published_or_suspended(tmp_path: Path) -> None:
    file = run_file(tmp_path, {"publish": {"uri": "s3://models/best"}, "suspend": True})
    spec = planned(file, "file", "other=documents.uri=more")["manuals-other-s0"].run.spec
    assert spec.documents.uri == (tmp_path / "more").as_uri()
    assert spec.publish is None
    assert not spec.suspend


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ("h=selection.stratgy=Hard", "arm h: spec.selection.stratgy: unknown field; did you mean strategy?"),
        ("h=selection.strategy=Hrd", "arm h: spec.selection.strategy: is 'Hrd'; give one of 'None', 'Random', 'All'"),
        ("h=training.rank=0", "arm h: spec.training.rank: is 0; give 1 or more"),
        ("h=rounds.first=1", "arm h: spec.rounds.first: spec.rounds has no fields"),
        ("h=seed=2", "arm h: spec.seed: no arm can set it: every arm is run with every seed"),
        ("h=evaluation.uri=easier.jsonl", "arm h: spec.evaluation.uri: no arm can set it: arms are compared on"),
        ("h=training.rank", "arm h: 'training.rank' sets no field; write FIELD=VALUE"),
        ("h=rounds=1,rounds=2", "arm h: spec.rounds: is given twice"),
        ("h=training.layers=[1", "arm h: spec.training.layers: is not valid YAML"),
        ("Hard=rounds=1", "arm Hard: name it with lower-case letters"),
        ("file", "arms: file is given twice"),
        ("x" * 40, "51 characters; 40 are most: shorten metadata.name"),
    ],
)  # fmt: skip
def test_a_wrong_arm_is_told(tmp_path: Path, arm: str, message: str) -> None:
    with pytest.raises(InvalidRun) as refused:
        planned(run_file(tmp_path), "file", arm)
    assert message in str(refused.value)


def test_an_arm_that_is_not_built_in_is_told_with_those_that_are() -> None:
    with pytest.raises(InvalidRun, match="arm hardest: is not built in; those are none, random, all, hard"):
        built_in_arm("hardest")


def test_one_arm_is_no_comparison(tmp_path: Path) -> None:
    with pytest.raises(InvalidRun, match="needs two or more"):
        planned(run_file(tmp_path), "file")


def test_a_seed_given_twice_would_count_twice(tmp_path: Path) -> None:
    with pytest.raises(InvalidRun, match="seeds: 1, 2, 1: one is given twice"):
        planned(run_file(tmp_path), "a", "b", seeds=(1, 2, 1))


def told(file: Path, *arms: str) -> list[str]:
    return list(warnings(list(planned(file, *arms).values())))


def test_arms_with_equal_training_are_compared_without_a_word(tmp_path: Path) -> None:
    assert told(run_file(tmp_path, EQUAL), "file", "hard=selection.strategy=Hard") == []


def test_epochs_make_arms_with_more_pairs_train_longer(tmp_path: Path) -> None:
    [warning] = told(run_file(tmp_path, {"gate": {"patience": 0}}), "none", "all")
    assert warning.startswith("none, all: training.maxSteps is 0, so an arm with more pairs trains longer")


def test_unequal_steps_rounds_and_a_gate_are_told(tmp_path: Path) -> None:
    steps, rounds, gate = told(
        run_file(tmp_path, EQUAL), "file", "long=training.maxSteps=180", "far=rounds=9", "gated=gate.patience=1"
    )
    assert "equally many rows per round (steps × batch): file 90 × 16, long 180 × 16" in steps
    assert rounds == "the arms have different numbers of rounds: file 3, long 3, far 9, gated 3"
    assert gate.startswith("gated: the gate may end an arm early")
