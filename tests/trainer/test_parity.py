"""Preset Reference meets the published code's numbers, on whatever vectors EVOLUTION_PARITY_DIR holds."""

import hashlib
import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from stages import TRAIN

from evolution_trainer.metrics import measure, reference_rouges
from evolution_trainer.model import ModelSession
from evolution_trainer.score import reference_measure, scored
from evolution_trainer.selection import select_as_reference
from evolution_trainer.train import TrainParameters, fit
from evolution_trainer.training_rows import Batches, tokenised
from evolution_trainer.transformers_engine import TransformersEngine

FOLDER = Path(os.environ.get("EVOLUTION_PARITY_DIR", Path(__file__).parents[3] / "shared" / "parity"))

pytestmark = pytest.mark.skipif(
    not FOLDER.exists(), reason=f"no vectors of the published code: {FOLDER} (EVOLUTION_PARITY_DIR) does not exist"
)


def vectors(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_bytes())
    return found


@pytest.fixture(scope="module")
def parity(tmp_path_factory: pytest.TempPathFactory) -> ModelSession:
    return ModelSession(str(FOLDER / "model"), tmp_path_factory.mktemp("cache"))


def test_the_selected_pairs_are_the_same_in_the_same_order() -> None:
    document = vectors("selection")
    for case in document["cases"]:
        pool = [row for round_ in document["pools"][case["pool"]][: case["rounds"]] for row in round_]
        strategy = case["mode"].capitalize()
        chosen = select_as_reference(strategy, [score for _, score in pool], case["k"], seed=1)
        assert len(set(chosen)) == case["count"]
        if "selected" in case:
            assert [pool[i][0] for i in chosen] == case["selected"], case


def test_large_selections_are_the_same() -> None:
    for case in vectors("selection")["large"]:
        scores = [((i * 7919 + 13) % 10007) / 10007 for i in range(case["n"])]
        chosen = select_as_reference(case["mode"].capitalize(), scores, case["k"], seed=1)
        ids = ",".join(map(str, chosen))
        assert hashlib.sha256(ids.encode()).hexdigest() == case["sha256_of_comma_joined_ids"]


def test_metrics_of_every_pair_are_the_same() -> None:
    for pair in vectors("metrics")["pairs"]:
        prediction, reference = pair["prediction"], pair["reference"]
        for name, value in reference_rouges(prediction, reference).items():
            assert value * 100 == pytest.approx(pair[name], abs=1e-4), pair
        bleu = measure("ReferenceBLEU", prediction, reference)
        assert bleu is not None
        assert bleu * 100 == pytest.approx(pair["bleu-4"], abs=1e-4), pair


def test_difficulty_scores_are_the_same(parity: ModelSession) -> None:
    document = vectors("ifd")
    frame = document["frame"]
    measured = reference_measure(
        parity.chat,
        document["max_length"],
        frame=lambda question: frame["conditional"].replace("{question}", question),
        alone_frame=frame["alone"],
    )
    with parity.adapted(None) as model:
        found = dict(scored(parity, model, document["pairs"], measured))
    for pair in document["pairs"]:
        score = found[pair["id"]]
        assert (1.0 if score.ifd is None else score.ifd) == pytest.approx(pair["score"], abs=2e-6), pair["id"]
        if score.ifd is not None:
            assert score.tokens == pair["conditional"]["answer_tokens"]
            assert score.loss == pytest.approx(pair["conditional"]["mean_loss"], abs=1e-5)
            assert score.loss_alone == pytest.approx(pair["alone"]["mean_loss"], abs=1e-5)


def test_training_rows_have_the_same_tokens_and_the_same_trained_span(parity: ModelSession) -> None:
    document = vectors("prompts")
    for row in document["training"]:
        [found], _ = tokenised([row], parity, document["cutoff_len"], "Reference")
        assert found.ids.tolist() == row["input_ids"], row["id"]
        assert [found.start, len(found.ids)] == row["trained_positions"], row["id"]


@pytest.mark.slow
def test_training_gives_the_same_losses_and_weights(parity: ModelSession, tmp_path: Path) -> None:
    document = vectors("sft")
    pairs = {pair["id"]: {"question": pair["input"], "answer": pair["output"]} for pair in document["pairs"]}
    for run in document["runs"]:
        start = FOLDER / "adapters" / run["starts_from"].removeprefix("final adapter of ")
        rows, dropped = tokenised([pairs[id_] for id_ in run["pairs"]], parity, 1024, "Reference")
        assert not dropped
        order = [row for batch in run["micro_batches"] for row in batch["rows"]]
        settings = {"rules": "Reference", "rank": 8, "alpha": 16, "warmupRatio": 0.0, "batchSize": 16}
        parameters = TrainParameters.model_validate({**TRAIN, **settings, "learningRate": run["learning_rate"]})
        scratch = tmp_path / run["name"]
        scratch.mkdir()
        batches = Batches(rows, order, run["optimizer_steps"])
        log = fit(parity, parameters, batches, start, scratch, lambda *_, **__: None)
        assert [row["loss"] for row in log] == pytest.approx([row["loss"] for row in run["log"]], abs=1e-5)
        rates = [row["learning_rate"] for row in run["log"]]
        assert [row["learningRate"] for row in log] == pytest.approx(rates)
        weights = load_file(scratch / "adapter" / "adapter_model.safetensors")
        for name, expected in run["final_adapter"].items():
            squares = weights[name].double().square().sum().item()
            relative = 1e-5 if "lora_A" in name else 1e-4
            assert squares == pytest.approx(expected["sum_of_squares"], rel=relative), (run["name"], name)


def test_greedy_questions_and_answers_of_a_round_are_the_same(parity: ModelSession) -> None:
    document, templates = vectors("round"), vectors("prompts")["templates"]
    order = [pair["document_index"] for pair in document["pairs"]]
    texts = [document["documents"][i] for i in order]
    with parity.adapted(None) as model:
        write = partial(TransformersEngine(parity, model).generate, temperature=0.0, top_p=1.0, max_tokens=1024)
        asked = [parity.chat.joint_prompt(templates["question_user"].replace("{document}", text)) for text in texts]
        questions = [reply.text for reply in write(asked, [0] * len(asked))]
        assert questions == [pair["question"].strip() for pair in document["pairs"]]
        answered = [
            parity.chat.joint_prompt(
                templates["answer_user"].replace("{document}", text).replace("{question}", pair["question"])
            )
            for text, pair in zip(texts, document["pairs"], strict=True)
        ]
        answers = [reply.text for reply in write(answered, [0] * len(answered))]
        assert answers == [pair["answer"].strip() for pair in document["pairs"]]
