"""What the chart takes from elsewhere is as it is there, and every value is explained."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from shutil import copytree
from typing import Any

import yaml
from charts import CHART, REPOSITORY

WRITE = REPOSITORY / "helm" / "write.py"


def test_copies_and_the_table_of_values_are_what_make_chart_writes(tmp_path: Path) -> None:
    copytree(CHART, tmp_path / "chart")
    subprocess.run([sys.executable, str(WRITE), str(tmp_path / "chart")], check=True)
    written, kept = texts(tmp_path / "chart"), texts(CHART)
    stale = {name for name in written.keys() | kept.keys() if written.get(name) != kept.get(name)}
    assert not stale, "run `make chart`"
    assert {name.split("/")[1] for name in kept if name.startswith("files/")} >= {"crds", "rules", "dashboards"}


def test_a_copy_that_is_no_longer_wanted_is_removed(tmp_path: Path) -> None:
    copytree(CHART, tmp_path / "chart")
    left_over = tmp_path / "chart" / "files" / "rules" / "EvolutionForgotten.yaml"
    left_over.touch()
    subprocess.run([sys.executable, str(WRITE), str(tmp_path / "chart")], check=True)
    assert not left_over.exists()


def test_every_value_has_a_description_and_every_described_value_a_default() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    described = dict(descriptions(schema, ""))
    assert defaults(values, schema, "") == described.keys() - {"global"}
    undescribed = [name for name, text in described.items() if len(text) < 10 or not text.endswith((".", "}"))]
    assert not undescribed
    assert not list(open_objects(schema, "")), "a misspelt value would be ignored"


def test_only_alerts_that_there_are_can_be_left_out() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    rules = schema["properties"]["metrics"]["properties"]["rules"]["properties"]
    files = {path.stem for path in (REPOSITORY / "monitoring" / "rules").glob("*.yaml")}
    assert set(rules["exclude"]["items"]["enum"]) == files - {"recording"}


def test_definitions_stay_when_the_chart_goes() -> None:
    definitions = [yaml.safe_load(path.read_text()) for path in (CHART / "files" / "crds").iterdir()]
    assert definitions
    kept = [definition["metadata"]["annotations"]["helm.sh/resource-policy"] for definition in definitions]
    assert set(kept) == {"keep"}


def texts(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def descriptions(schema: dict[str, Any], above: str) -> Iterator[tuple[str, str]]:
    for name, described in schema["properties"].items():
        yield above + name, described.get("description", "")
        if "properties" in described:
            yield from descriptions(described, f"{above}{name}.")


def defaults(values: dict[str, Any], schema: dict[str, Any], above: str) -> set[str]:
    names = set()
    for name, default in values.items():
        names.add(above + name)
        if "properties" in schema["properties"].get(name, {}):
            names |= defaults(default, schema["properties"][name], f"{above}{name}.")
    return names


def open_objects(schema: dict[str, Any], above: str) -> Iterator[str]:
    """Those with known fields that accept unknown ones, too."""
    if "properties" in schema and schema.get("additionalProperties") is not False:
        yield above
    for name, described in schema.get("properties", {}).items():
        yield from open_objects(described, f"{above}{name}.")
