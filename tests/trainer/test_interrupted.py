"""Real workers, ended by signals at random moments: the same digests, little done twice, nothing half done committed.

More moments than the tests take, by hand: `PYTHONPATH=tests python tests/trainer/test_interrupted.py MOMENTS [SEED]`.
"""

import random
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from interrupted import Interruptions
from small_run import QUICKSTART, small_workplace
from stages import TRAIN, pair
from worker_process import Workshop, order_stage

from evolution.plan.manifest import Manifest
from evolution.plan.order import Compute
from evolution.plan.stage import Kind, canonical_json

MOMENTS = 3
STEPS = 60
INTERVAL = 0.3
"""Seconds between two checkpoints."""
SLACK = 2.0
"""Seconds that a step, a checkpoint and a late event may take on a busy machine."""


def training(folder: Path, processes: int = 1) -> Interruptions:
    """A training of `STEPS` steps in a folder of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    shop = Workshop(folder, QUICKSTART / "model")
    rows = folder / "rows.jsonl"
    rows.write_bytes(b"".join(canonical_json(pair(i, answer=f"{i} " * 20)) + b"\n" for i in range(40)))
    parameters = {**TRAIN, "batchSize": 16, "maxTokens": 256, "length": {"steps": STEPS}}
    stage = order_stage(Kind.TRAIN, parameters, pairs=shop.artifacts.put_file(rows).digest)
    compute = Compute(checkpoint_seconds=INTERVAL, processes=processes)
    return Interruptions(shop, shop.order(stage).model_copy(update={"compute": compute}), "steps")


def digests(manifest: Manifest) -> dict[str, str]:
    return {name: output.digest for name, output in manifest.outputs.items()}


def check(folder: Path, moments: int, seed: int) -> Interruptions:
    whole = training(folder / "undisturbed").undisturbed()
    assert whole.code == 0, whole.errors
    seconds = whole.reached[-1][0] - whole.reached[0][0]
    dice = random.Random(seed)
    signals = [(signal.SIGTERM, signal.SIGKILL)[n % 2] for n in range(moments)]
    disturbed = training(folder / "disturbed")
    done = disturbed.run(dice, signals, seconds * 1.5 / moments)
    assert digests(done) == digests(whole.manifests["train"])
    assert list(disturbed.shop.artifacts.store.list("runs/test-0123abcd/checkpoints/")) == []
    assert max(disturbed.redone, default=0.0) < INTERVAL + SLACK, (disturbed.redone, disturbed.steps_redone)
    return disturbed


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_training_that_is_ended_again_and_again_ends_with_the_same_digests(tmp_path: Path) -> None:
    disturbed = check(tmp_path, MOMENTS, seed=1)
    assert len(disturbed.lives) > 2


@pytest.mark.slow
def test_a_run_on_a_laptop_that_is_interrupted_by_its_user_keeps_the_steps_so_far(tmp_path: Path) -> None:
    place = small_workplace(tmp_path, {"training": {"maxSteps": 100_000}}, documents=3)
    run = place.start("run")
    runs = tmp_path / ".evolution" / "default" / "runs"
    while not any(b'"steps"' in told.read_bytes() for told in runs.glob("*/progress/*")):
        with pytest.raises(subprocess.TimeoutExpired):
            run.wait(0.1)
    run.send_signal(signal.SIGINT)
    assert run.wait(60) == 130
    assert len(list(runs.glob("*/checkpoints/*/training/*.json"))) == 1


if __name__ == "__main__":
    moments, seed = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1
    done = 0
    while done < moments:
        with tempfile.TemporaryDirectory() as folder:
            disturbed = check(Path(folder), min(6, moments - done), seed + done)
            interruptions = len(disturbed.lives) - 1
            done += max(1, interruptions)
            redone = [f"{seconds:.2f} s" for seconds in disturbed.redone]
            print(f"{done} of {moments}: same digests; done again: {redone}, {disturbed.steps_redone} steps")  # noqa: T201
