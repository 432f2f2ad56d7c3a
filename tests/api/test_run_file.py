"""A run file is refused with every mistake named: line, field, value, and what would be right."""

from pathlib import Path

import pytest
from simulated import make_run

from evolution.api.errors import InvalidRun
from evolution.api.load import load_run, parse_run
from evolution.api.presets import PRESETS

MINIMAL = """\
apiVersion: selfevolution.io/v1alpha1
kind: EvolutionRun
metadata: {name: demo}
spec:
  rounds: 3
  model: {uri: models/base}
  documents: {uri: docs}
  evaluation: {uri: questions.jsonl}
"""


def mistakes(text: str) -> str:
    with pytest.raises(InvalidRun) as refused:
        parse_run(text, source="run.yaml")
    return str(refused.value)


def test_the_minimal_form_is_enough() -> None:
    spec = parse_run(MINIMAL).spec
    assert (spec.rounds, spec.training.rank, spec.selection.strategy) == (3, 16, "Hard")


def test_the_reference_preset_fills_in_the_published_settings() -> None:
    training = make_run({"preset": "Reference"}).spec.training
    assert (training.rank, training.alpha, training.learning_rate, training.warmup_ratio) == (8, 16, 1e-6, 0)


@pytest.mark.parametrize("preset", list(PRESETS))
def test_the_author_wins_over_the_preset_field_by_field(preset: str) -> None:
    training = make_run({"preset": preset, "training": {"rank": 3}}).spec.training
    assert training.rank == 3
    assert training.batch_size == 16


def test_numbers_are_read_as_kubernetes_reads_them() -> None:
    assert parse_run(MINIMAL + "  training: {learningRate: 1e-4}\n").spec.training.learning_rate == 1e-4


def test_relative_locations_are_resolved_against_the_file(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(MINIMAL, encoding="utf-8")
    assert load_run(file).spec.documents.uri == (tmp_path / "docs").as_uri()


def test_other_locations_are_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(MINIMAL.replace("uri: docs", "uri: s3://bucket/docs"), encoding="utf-8")
    assert load_run(file).spec.documents.uri == "s3://bucket/docs"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (MINIMAL.replace("rounds: 3", "rounds: 0"), "run.yaml:5: spec.rounds: is 0; give 1 or more"),
        (MINIMAL.replace("rounds: 3", "rounds: three"), "run.yaml:5: spec.rounds: is 'three'; give a whole number"),
        (MINIMAL.replace("  rounds: 3\n", ""), "run.yaml:4: spec.rounds: is missing; it has no default"),
        (MINIMAL + "  trainign: {}\n", "run.yaml:9: spec.trainign: unknown field; did you mean training?"),
        (MINIMAL + "  training:\n    rank: 8\n    alhpa: 3\n", "run.yaml:11: spec.training.alhpa: unknown"),
        (MINIMAL + "  training: {dropout: 1.0}\n", "run.yaml:9: spec.training.dropout: is 1.0; give less than 1.0"),
        (MINIMAL + "  training: {layers: [1, -2]}\n", "run.yaml:9: spec.training.layers[1]: is -2; give 0 or more"),
        (MINIMAL + "  preset: Best\n", "run.yaml:9: spec.preset: is 'Best'; give one of 'Default', 'Reference'"),
        (MINIMAL + "  rounds: 4\n", "run.yaml:9: spec.rounds: is given twice (first in line 5)"),
        (MINIMAL + "  gate: {metric: CHRF}\n", "run.yaml:9: spec.gate.metric: CHRF is not among evaluation.metrics"),
        (
            MINIMAL + "  generation: {prompts: {question: Ask.}}\n",
            "run.yaml:9: spec.generation.prompts.question: the template has no {document}",
        ),
        (MINIMAL.replace("name: demo", "name: My_Run"), "run.yaml:3: metadata.name: is 'My_Run'; use lower-case"),
        (MINIMAL.replace("v1alpha1", "v2"), "run.yaml:1: apiVersion: is 'selfevolution.io/v2'; give one of"),
        (MINIMAL + "  seed: [\n", "run.yaml:10: is not valid YAML"),
        ("", "run.yaml:1: is not an EvolutionRun"),
        ("- a\n", "run.yaml:1: is not an EvolutionRun"),
        (MINIMAL.replace("{uri: docs}", "docs"), "run.yaml:7: spec.documents: is 'docs'; give a mapping of fields"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_line_field_value_and_remedy(text: str, expected: str) -> None:
    assert expected in mistakes(text)


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file() -> None:
    lines = mistakes(MINIMAL.replace("rounds: 3", "rounds: 0") + "  seed: -1\n  foo: 1\n").splitlines()
    assert [line.split(": ")[1] for line in lines] == ["spec.rounds", "spec.seed", "spec.foo"]


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRun, match=r"no\.yaml: cannot be read: No such file"):
        load_run(tmp_path / "no.yaml")


def test_a_file_in_another_encoding_is_named(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_bytes(MINIMAL.encode("utf-16"))
    with pytest.raises(InvalidRun, match="is not UTF-8 text"):
        load_run(file)
