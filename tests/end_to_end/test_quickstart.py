"""The quickstart learns, whatever the seed: documents that the model has never seen, questions kept from training."""

import json
import shutil
from pathlib import Path

import pytest
from small_run import QUICKSTART, Workplace


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.ship) for seed in (2, 3))])
def test_closed_book_exact_match_rises_round_by_round(tmp_path: Path, seed: int) -> None:
    folder = tmp_path / "quickstart"
    shutil.copytree(QUICKSTART, folder, ignore=shutil.ignore_patterns(".evolution"))
    place = Workplace(folder)
    place.edit({"seed": seed})
    done = place.evolve("run", timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    status = json.loads(place.evolve("status", "--json").stdout)
    baseline = float(status["baseline"]["scores"]["ExactMatch"])
    curve = [float(record["scores"]["ExactMatch"]) for record in status["rounds"]]
    assert len(curve) == 4
    assert baseline <= 0.02
    assert baseline < curve[0] < curve[1] < curve[2]
    assert curve[3] >= 0.60
