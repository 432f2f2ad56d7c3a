"""Real workers, ended by signals at random moments: the same digests, little done twice, nothing half done committed.

More moments than the tests take, by hand:
`PYTHONPATH=tests python tests/trainer/test_interrupted.py STAGE MOMENTS [SEED]`.
"""

import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from interrupted import Interruptions
from many_rows import GENERATE, items, texts
from small_run import QUICKSTART, small_workplace
from stages import TRAIN, pair
from worker_process import Workshop, order_stage

from evolution.plan.manifest import Manifest
from evolution.plan.order import Compute, OrderStage
from evolution.plan.stage import Kind, canonical_json

MOMENTS = 3
STEPS = 60
INTERVAL = 0.3
"""Seconds between two checkpoints."""
SLACK = 2.0
"""Seconds that a step, a checkpoint and a late event may take on a busy machine."""


def training(shop: Workshop) -> OrderStage:
    rows = (pair(i, answer=f"{i} " * 20) for i in range(40))
    parameters = {**TRAIN, "batchSize": 16, "maxTokens": 256, "length": {"steps": STEPS}}
    return order_stage(Kind.TRAIN, parameters, pairs=stored(shop, rows))


def generating(shop: Workshop) -> OrderStage:
    """Candidates, so that it is done in several waves."""
    rows = ({"id": f"{n:016x}", "text": text, "language": "en"} for n, text in enumerate(texts(60)))
    parameters = {**GENERATE, "candidates": 4, "focus": "Unknown", "similarity": 0.8}
    return order_stage(Kind.GENERATE, parameters, documents=stored(shop, rows))


def scoring(shop: Workshop) -> OrderStage:
    rows = ({"id": f"{n:016x}-q1", **item, "answer": f"{item['answer']} {n}"} for n, item in enumerate(items(3000)))
    return order_stage(Kind.SCORE, {"rules": "Default", "maxTokens": 128}, pairs=stored(shop, rows))


def evaluating(shop: Workshop) -> OrderStage:
    rows = ({"id": f"{n:016x}", **item} for n, item in enumerate(items(4000)))
    parameters = {"metrics": ["ExactMatch"], "maxTokens": 8}
    return order_stage(Kind.EVALUATE, parameters, items=stored(shop, rows))


STAGES: Mapping[str, tuple[Callable[[Workshop], OrderStage], str]] = {
    "generate": (generating, "answers"),
    "score": (scoring, "pairs"),
    "train": (training, "steps"),
    "evaluate": (evaluating, "items"),
}
"""By name: the stage, and the phase in which it is interrupted."""


def stored(shop: Workshop, rows: Iterable[Mapping[str, Any]]) -> str:
    path = shop.folder / "rows.jsonl"
    path.write_bytes(b"".join(canonical_json(row) + b"\n" for row in rows))
    return shop.artifacts.put_file(path).digest


def interruptions(name: str, folder: Path, processes: int = 1) -> Interruptions:
    """A stage in a folder of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    shop = Workshop(folder, QUICKSTART / "model")
    make, phase = STAGES[name]
    compute = Compute(checkpoint_seconds=INTERVAL, processes=processes)
    return Interruptions(shop, shop.order(make(shop)).model_copy(update={"compute": compute}), phase)


def digests(manifest: Manifest) -> dict[str, str]:
    return {name: output.digest for name, output in manifest.outputs.items()}


def check(name: str, folder: Path, moments: int, seed: int) -> Interruptions:
    whole = interruptions(name, folder / "undisturbed").undisturbed()
    assert whole.code == 0, whole.errors
    seconds = whole.reached[-1][0] - whole.reached[0][0]
    dice = random.Random(seed)
    signals = [(signal.SIGTERM, signal.SIGKILL)[n % 2] for n in range(moments)]
    disturbed = interruptions(name, folder / "disturbed")
    done = disturbed.run(dice, signals, seconds * 1.5 / moments)
    assert digests(done) == digests(whole.manifests[disturbed.order.stages[-1].id])
    assert list(disturbed.shop.artifacts.store.list("runs/test-0123abcd/checkpoints/")) == []
    assert max(disturbed.redone, default=0.0) < INTERVAL + SLACK, (disturbed.redone, disturbed.steps_redone)
    return disturbed


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["train", "generate"])
def test_a_stage_that_is_ended_again_and_again_ends_with_the_same_digests(name: str, tmp_path: Path) -> None:
    disturbed = check(name, tmp_path, MOMENTS, seed=1)
    assert len(disturbed.lives) > 2


@pytest.mark.slow
def test_a_run_on_a_laptop_that_is_interrupted_by_its_user_keeps_the_steps_so_far(tmp_path: Path) -> None:
    place = small_workplace(tmp_path, {"training": {"maxSteps": 100_000}}, documents=3)
    runs = tmp_path / ".evolution" / "default" / "runs"
    run = place.start("run")
    try:
        while not any(b'"steps"' in told.read_bytes() for told in runs.glob("*/progress/*")):
            with pytest.raises(subprocess.TimeoutExpired):
                run.wait(0.1)
        run.send_signal(signal.SIGINT)
        assert run.wait(60) == 130
    finally:
        run.kill()
    assert len(list(runs.glob("*/checkpoints/*/training/*.json"))) == 1


def by_hand(name: str, moments: int, seed: int = 1) -> None:
    done = 0
    while done < moments:
        with tempfile.TemporaryDirectory() as folder:
            disturbed = check(name, Path(folder), min(6, moments - done), seed + done)
            done += max(1, len(disturbed.lives) - 1)
            redone = [f"{seconds:.2f} s" for seconds in disturbed.redone]
            what = f"{redone}, {disturbed.steps_redone} {disturbed.phase}"
            print(f"{name}, {done} of {moments}: same digests; done again: {what}")  # noqa: T201


if __name__ == "__main__":
    by_hand(sys.argv[1], *map(int, sys.argv[2:]))
