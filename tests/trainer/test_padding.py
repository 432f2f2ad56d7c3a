"""How much of what a training computes is padding, on real Chinese questions and answers, read in place."""

import json
import os
from pathlib import Path

import pytest

from evolution_trainer.fit import TOKEN_BUDGET, rows_at_once
from evolution_trainer.model import ModelSession
from evolution_trainer.training_rows import Batches, tokenised

SHARED = Path(__file__).parents[3] / "shared"
DATA = Path(os.environ.get("EVOLUTION_DATA_DIR", SHARED / "data")) / "aiops" / "AIOps_eval_data.json"
MODEL = Path(os.environ.get("EVOLUTION_PARITY_DIR", SHARED / "parity")) / "model"

pytestmark = [
    pytest.mark.aiops,
    pytest.mark.skipif(not DATA.exists(), reason=f"no AIOps documents: {DATA} (EVOLUTION_DATA_DIR) does not exist"),
    pytest.mark.skipif(not MODEL.exists(), reason=f"no Chinese model: {MODEL} (EVOLUTION_PARITY_DIR) does not exist"),
]


@pytest.mark.parametrize("batch_size", [4, 8, 16])
@pytest.mark.parametrize(("device", "copies"), [("cpu", 1), ("cpu", 20), ("cuda", 20)])
def test_at_most_a_tenth_is_padding(tmp_path: Path, batch_size: int, device: str, copies: int) -> None:
    pairs = [{"question": p["input"], "answer": p["output"]} for p in json.loads(DATA.read_bytes())]
    rows, dropped = tokenised(pairs * copies, ModelSession(str(MODEL), tmp_path), 1024, "Default")
    assert len(rows) + dropped == 100 * copies
    batches = Batches.shuffled(rows, batch_size, None, 1.0, 7)
    at_once = rows_at_once(TOKEN_BUDGET[device], batch_size, rows)
    lengths = [len(batches[i].ids) for i in range(len(batches))]
    computed = [lengths[i : i + at_once] for i in range(0, len(lengths), at_once)]
    waste = 1 - sum(lengths) / sum(len(together) * max(together) for together in computed)
    assert waste <= 0.1, f"{waste:.1%}"
