"""Writes what the chart takes from elsewhere in this repository: `make chart`, or `python helm/write.py CHART_FOLDER`.

Into files/: CustomResourceDefinitions, permissions, admission policies, rules and dashboards. Into README.md: the table
of values, from values.yaml and values.schema.json.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).parents[1]
COPIES = {
    "permissions": "deploy/*/permissions.yaml",
    "policies": "deploy/policies/*.yaml",
    "rules": "monitoring/rules/*.yaml",
    "dashboards": "monitoring/dashboards/*.json",
}
"""Folders below files/, and what is copied there as it is; permissions are called after their folder."""
TABLE = "<!-- values: written by `make chart` -->\n"
KEEP = "  annotations:\n    helm.sh/resource-policy: keep\n"


def files() -> dict[str, str]:
    """Texts by their path below files/."""
    copied = {
        f"{folder}/{path.parent.name if folder == 'permissions' else path.stem}{path.suffix}": path.read_text("utf-8")
        for folder, pattern in COPIES.items()
        for path in sorted(REPOSITORY.glob(pattern))
        if path.name != "kustomization.yaml"
    }
    copied["permissions/run-authors.yaml"] = (REPOSITORY / "deploy/cluster/run-authors.yaml").read_text("utf-8")
    for path in sorted(REPOSITORY.glob("crds/*.yaml")):
        copied[f"crds/{path.name}"] = _kept(path.read_text("utf-8"))
    return copied


def _kept(definition: str) -> str:
    """A CustomResourceDefinition that Helm leaves in the cluster when the chart goes, and with it every run."""
    head, found, rest = definition.partition("\nmetadata:\n")
    if not found or rest.startswith("  annotations:"):
        raise ValueError(f"a definition without metadata, or with annotations of its own:\n{definition[:300]}")
    return f"{head}{found}{KEEP}{rest}"


def table(values: dict[str, Any], schema: dict[str, Any]) -> str:
    """Every value with its default and description."""
    rows = [
        f"| `{name}` | {f'`{json.dumps(default)}`'} | {description} |"
        for name, default, description in _values(values, schema, "")
    ]
    return "\n".join(["| value | default | |", "|---|---|---|", *rows, ""])


def _values(values: dict[str, Any], schema: dict[str, Any], above: str) -> Iterator[tuple[str, Any, str]]:
    for name, default in values.items():
        described = schema["properties"][name]
        if isinstance(default, dict) and described.get("properties"):
            yield from _values(default, described, f"{above}{name}.")
        else:
            yield f"{above}{name}", default, described["description"].replace("|", "\\|")


def readme(chart: Path) -> str:
    """Its text with the table as it should be."""
    values = yaml.safe_load((chart / "values.yaml").read_text("utf-8"))
    schema = json.loads((chart / "values.schema.json").read_text("utf-8"))
    head, begin, rest = (chart / "README.md").read_text("utf-8").partition(TABLE)
    _, end, tail = rest.partition(TABLE)
    if not begin or not end:
        raise ValueError(f"README.md has not twice the line {TABLE!r}")
    return f"{head}{TABLE}\n{table(values, schema)}\n{TABLE}{tail}"


def main(chart: Path) -> None:
    for folder in {Path(name).parent for name in files()}:
        (chart / "files" / folder).mkdir(parents=True, exist_ok=True)
    wanted = files()
    for path in (chart / "files").rglob("*"):
        if path.is_file() and path.relative_to(chart / "files").as_posix() not in wanted:
            path.unlink()
    for name, text in wanted.items():
        (chart / "files" / name).write_text(text, "utf-8")
    (chart / "README.md").write_text(readme(chart), "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
