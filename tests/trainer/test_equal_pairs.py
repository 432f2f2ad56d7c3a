"""However many workers share a stage and however large their batches are, its pairs are the same bytes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from small_run import QUICKSTART
from stages import GENERATE, Bench, Done

from evolution_trainer import generate
from evolution_trainer.model import ModelSession

GREEDY: Mapping[str, Any] = {"temperature": 0.0, "answerTemperature": 0.0}
SAMPLED: Mapping[str, Any] = {"temperature": 1.0, "answerTemperature": 0.7, "topP": 0.9}
SETTINGS = pytest.mark.parametrize("settings", [GREEDY, SAMPLED], ids=["greedy", "sampled"])


@pytest.fixture
def demo(tmp_path: Path, demo_session: ModelSession) -> Bench:
    return Bench(tmp_path, demo_session)


def documents(bench: Bench, count: int) -> str:
    """Digest of so many of the quickstart's documents; the last says what the first says."""
    files = sorted((QUICKSTART / "documents").iterdir())[: count - 1]
    texts = [file.read_text(encoding="utf-8").strip() for file in (*files, files[0])]
    return bench.put({"id": f"{n:016x}", "text": text, "language": "en"} for n, text in enumerate(texts))


def digests(bench: Bench, given: str, settings: Mapping[str, Any], shards: int, budget: int) -> tuple[str, str]:
    """Of pairs and rejects, from so many workers with so many tokens in a batch."""
    parameters = {**GENERATE, **settings}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evolution_trainer.transformers_engine.TOKEN_BUDGET", {"cpu": budget})
        parts = [generate.run_part(bench.stage(parameters, documents=given), n, shards) for n in range(shards)]
    stage = bench.stage(parameters, documents=given)
    merged = generate.merge(
        stage, [generate.Part(part.outputs["answers"].path, part.outputs["rejects"].path) for part in parts]
    )
    assert merged.metrics["pairs"]
    return Done(merged, bench.artifacts).digest("pairs"), Done(merged, bench.artifacts).digest("rejects")


@SETTINGS
def test_five_workers_with_small_batches_write_what_one_with_large_batches_writes(
    demo: Bench, settings: Mapping[str, Any]
) -> None:
    given = documents(demo, 6)
    assert digests(demo, given, settings, 1, 16_384) == digests(demo, given, settings, 5, 512)


@pytest.mark.slow
@SETTINGS
def test_pairs_are_equal_for_any_number_of_workers_and_any_budget(demo: Bench, settings: Mapping[str, Any]) -> None:
    settings = {**settings, "questionsPerDocument": 1}
    given = documents(demo, 17)
    expected = digests(demo, given, settings, 1, 16_384)
    shapes = [(1, 512), (1, 2048), (2, 1024), (2, 8192), (5, 512), (5, 4096), (16, 512), (16, 16_384)]
    assert {shape: digests(demo, given, settings, *shape) for shape in shapes} == dict.fromkeys(shapes, expected)
