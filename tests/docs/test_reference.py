"""The reference of the fields is that of the CustomResourceDefinitions, and says what the API server says."""

import importlib.util
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
_spec = importlib.util.spec_from_file_location("write_reference", DOCS / "write_reference.py")
assert _spec
assert _spec.loader
write_reference = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(write_reference)


@pytest.fixture(scope="module")
def text() -> str:
    written: str = write_reference.reference()
    return written


def test_the_reference_is_written_from_the_definitions(text: str) -> None:
    assert (DOCS / "reference.md").read_text(encoding="utf-8") == text, "run `make reference`"


def test_every_kind_is_in_it_with_its_fields_their_bounds_and_what_is_refused(text: str) -> None:
    for file in write_reference.CRDS.glob("*.yaml"):
        kind = next(line.split()[1] for line in file.read_text().splitlines() if line.startswith("    kind:"))
        assert f"\n## {kind}\n" in text
    assert "| `spec.rounds` | integer |  | given, ≥ 1, ≤ 1000 |" in text
    assert "| `spec.suspend` | boolean | `false` |" in text
    assert "    - … is not among evaluation.metrics (ROUGEL, BLEU); add it there or choose one of those" in text


@pytest.mark.parametrize(
    ("expression", "texts"),
    [
        ("""'"' + self + '"' + " is wrong; give 1" """, ['"…" is wrong; give 1']),
        ("""'a' + (x > 1 ? "b" : y ? 'c' : "d:e?") + 'f'""", ["abf", "acf", "ad:e?f"]),
        ("""('A' in self ? 'A ' : '') + ('B' in self ? 'B ' : '') + "is set" """, ["… is set"]),
        (r"""'it\'s ' + (self ? "a \"b\"" : string(self))""", ['it\'s a "b"', "it's …"]),
    ],
)
def test_messages_are_told_as_they_will_be_read(expression: str, texts: list[str]) -> None:
    assert write_reference.alternatives(expression) == texts
