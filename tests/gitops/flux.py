"""What Flux makes of objects, as its own code says: by kstatus, or by the expressions of a Kustomization."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from tools.build import binary

EXAMPLE = Path(__file__).parents[2] / "examples" / "gitops" / "flux" / "runs.yaml"


def states(objects: Sequence[Mapping[str, Any]], expressions: Mapping[str, str] | None = None) -> list[str]:
    """Current, InProgress, Failed, or Unknown, when Flux looks again; by kstatus without expressions."""
    question = json.dumps({"objects": objects, "expressions": expressions})
    answer = subprocess.run([binary("flux-health")], input=question, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    found: list[str] = json.loads(answer.stdout)
    return found


def kustomizations() -> dict[str, Any]:
    """The specs of the example's Kustomizations by name."""
    documents = yaml.safe_load_all(EXAMPLE.read_text(encoding="utf-8"))
    return {d["metadata"]["name"]: d["spec"] for d in documents if d["kind"] == "Kustomization"}


def expressions(name: str, kind: str) -> Mapping[str, str]:
    """Those of a Kustomization for a kind."""
    (found,) = (check for check in kustomizations()[name]["healthCheckExprs"] if check["kind"] == kind)
    return {key: found[key] for key in ("current", "failed", "inProgress") if key in found}
