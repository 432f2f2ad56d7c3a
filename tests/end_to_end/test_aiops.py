"""A two-round run on real Chinese documents, read in place and never copied, with a tiny model that knows the script.

EVOLUTION_DATA_DIR holds the AIOps documents (`aiops/*.json`), EVOLUTION_PARITY_DIR a tiny Chinese model (`model/`).
"""

import json
import os
from pathlib import Path

import pytest
import yaml
from small_run import Workplace

DATA = Path(os.environ.get("EVOLUTION_DATA_DIR", Path(__file__).parents[3] / "shared" / "data")) / "aiops"
MODEL = Path(os.environ.get("EVOLUTION_PARITY_DIR", Path(__file__).parents[3] / "shared" / "parity")) / "model"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DATA.exists(), reason=f"no AIOps documents: {DATA} (EVOLUTION_DATA_DIR) does not exist"),
    pytest.mark.skipif(not MODEL.exists(), reason=f"no Chinese model: {MODEL} (EVOLUTION_PARITY_DIR) does not exist"),
]


def workplace(
    folder: Path, *, documents: Path, evaluation: Path, preset: str, tokens: int, questions: int
) -> Workplace:
    """The tiny model rarely comes to an end: many tokens, and of many questions a few are kept."""
    spec = {
        "preset": preset,
        "rounds": 2,
        "model": {"uri": str(MODEL)},
        "documents": {"uri": str(documents)},
        "evaluation": {"uri": str(evaluation), "maxTokens": 32},
        "generation": {"temperature": 0.7, "maxTokens": tokens, "questionsPerDocument": questions},
        "gate": {"patience": 0},
    }
    run = {
        "apiVersion": "selfevolution.io/v1alpha1",
        "kind": "EvolutionRun",
        "metadata": {"name": "aiops"},
        "spec": spec,
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(run), encoding="utf-8")
    return Workplace(folder)


@pytest.mark.parametrize("preset", ["Default", "Reference"])
def test_the_toy_documents_go_through_two_rounds(tmp_path: Path, preset: str) -> None:
    documents, evaluation = DATA / "toy_data.json", DATA / "toy_eval_data.json"
    place = workplace(tmp_path, documents=documents, evaluation=evaluation, preset=preset, tokens=512, questions=3)
    done = place.evolve("run", timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    manifests = place.manifests().values()
    assert {m["round"] for m in manifests if m["kind"] == "Train"} == {1, 2}
    prepared = next(m for m in manifests if m["parameters"].get("source") == "Documents")
    assert prepared["metrics"]["documents"] == 10


@pytest.mark.ship
@pytest.mark.parametrize("preset", ["Default", "Reference"])
def test_two_hundred_documents_go_through_two_rounds(tmp_path: Path, preset: str) -> None:
    rows = json.loads((DATA / "AIOps_data.json").read_text(encoding="utf-8"))[:200]
    (tmp_path / "documents.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    documents, evaluation = tmp_path / "documents.json", DATA / "AIOps_eval_data.json"
    place = workplace(tmp_path, documents=documents, evaluation=evaluation, preset=preset, tokens=192, questions=1)
    done = place.evolve("run", timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    prepared = next(m for m in place.manifests().values() if m["parameters"].get("source") == "Documents")["metrics"]
    repeated = len(rows) - len({row["instruction"].strip() for row in rows})
    assert prepared["documents"] == len(rows)
    assert prepared["duplicates"] == (0 if preset == "Reference" else repeated)
    assert prepared["chunks"] == len(rows) - prepared["duplicates"] - prepared["nearDuplicates"]
    pairs = next(m for m in place.manifests().values() if m["kind"] == "Generate" and m["round"] == 1)
    assert pairs["outputs"]["pairs"]["count"] > 0
