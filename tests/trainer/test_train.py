import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftConfig
from safetensors.torch import load_file
from stages import TRAIN, Bench, pair

from evolution_trainer import fit as fitting
from evolution_trainer import train
from evolution_trainer.adapter import lora_config
from evolution_trainer.failure import StageFailed
from evolution_trainer.fit import fit
from evolution_trainer.model import ModelSession
from evolution_trainer.optimizing import AnswerTrainer
from evolution_trainer.train import TrainParameters
from evolution_trainer.training_rows import IGNORED, Batches, TrainingRow, collate, tokenised

PAIRS = [pair(i) for i in range(12)]


def failure_of(bench: Bench, changes: Mapping[str, Any], **inputs: str) -> StageFailed:
    with pytest.raises(StageFailed) as failure:
        bench.do(train, {**TRAIN, **changes}, pairs=bench.put(PAIRS), **inputs)
    return failure.value


def test_two_trainings_give_the_same_bytes(bench: Bench) -> None:
    first = bench.do(train, TRAIN, pairs=bench.put(PAIRS))
    second = bench.do(train, TRAIN, pairs=bench.put(PAIRS))
    for name in ("adapter", "log", "selection", "card"):
        assert first.digest(name) == second.digest(name)


def test_another_seed_gives_another_adapter(bench: Bench) -> None:
    first = bench.do(train, TRAIN, pairs=bench.put(PAIRS))
    second = bench.do(train, {**TRAIN, "seed": 8}, pairs=bench.put(PAIRS))
    assert first.digest("adapter") != second.digest("adapter")


def test_the_loss_falls_and_every_step_is_logged(bench: Bench) -> None:
    parameters = {**TRAIN, "learningRate": 0.02, "length": {"steps": 30}}
    done = bench.do(train, parameters, pairs=bench.put(PAIRS))
    log = done.rows("log")
    assert [row["step"] for row in log] == list(range(1, 31))
    assert done.metrics["steps"] == 30
    assert done.metrics["loss"] < done.metrics["firstLoss"] / 2
    assert bench.progress[-1] == ("steps", 30, 30)


def test_the_learning_rate_rises_and_then_falls_along_a_cosine_to_a_tenth(bench: Bench) -> None:
    log = bench.do(train, {**TRAIN, "length": {"steps": 20}}, pairs=bench.put(PAIRS)).rows("log")
    rates = [row["learningRate"] for row in log]
    assert rates[0] < rates[1] < max(rates) == pytest.approx(1e-3)
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert rates[-1] == pytest.approx(1e-4, rel=0.15)


def test_under_the_reference_rules_it_falls_to_nothing(bench: Bench) -> None:
    parameters = {**TRAIN, "rules": "Reference", "warmupRatio": 0.0, "length": {"steps": 20}}
    rates = [row["learningRate"] for row in bench.do(train, parameters, pairs=bench.put(PAIRS)).rows("log")]
    assert rates[0] == pytest.approx(1e-3)
    assert rates[-1] < 1e-5


def test_epochs_are_passes_over_the_rows(bench: Bench) -> None:
    done = bench.do(train, {**TRAIN, "length": {"epochs": 1.5}}, pairs=bench.put(PAIRS))
    assert done.metrics["steps"] == 5  # 18 rows in batches of 4


def test_the_loss_counts_the_answer_and_its_end_alone(session: ModelSession) -> None:
    [row], _ = tokenised([pair(3, "What is it?", "network")], session, 128, "Default")
    batch = collate([row, TrainingRow(torch.tensor([5, 6], dtype=torch.int32), 1)], pad=0)
    counted = batch["labels"][0][batch["labels"][0] != IGNORED].tolist()
    assert counted == [*session.chat.plain("network"), session.tokenizer.eos_token_id]
    assert batch["labels"][1].tolist()[:2] == [IGNORED, 6]
    assert set(batch["labels"][1].tolist()[2:]) == {IGNORED}


def test_a_step_in_several_parts_equals_one_in_one_go(
    session: ModelSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, _ = tokenised([pair(i, answer="seven " * (i % 5 + 1)) for i in range(16)], session, 128, "Default")
    parameters = TrainParameters.model_validate({**TRAIN, "batchSize": 8})
    batches = Batches.shuffled(rows, 8, 4, 1.0, 3)
    logs = []
    for budget in (100_000, 100):
        monkeypatch.setattr(fitting, "TOKEN_BUDGET", {"cpu": budget})
        (tmp_path / str(budget)).mkdir()
        logs.append(fit(session, parameters, batches, None, tmp_path / str(budget), lambda *_, **__: None))
    losses = [[row["loss"] for row in log] for log in logs]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    whole, parts = (load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("100000", "100"))
    for name, weight in whole.items():
        assert torch.allclose(weight, parts[name], atol=1e-4)


def test_every_row_comes_once_per_pass_and_batches_are_full(session: ModelSession) -> None:
    rows, _ = tokenised(PAIRS, session, 128, "Default")
    batches = Batches.shuffled(rows, 5, 12, 1.0, 3)
    assert len(batches) == 60
    assert [sorted(batches.order).count(i) for i in range(12)] == [5] * 12
    assert batches.order != Batches.shuffled(rows, 5, 12, 1.0, 4).order


def test_batches_hold_rows_of_similar_length() -> None:
    rows = [TrainingRow(torch.zeros(1 + i % 50, dtype=torch.int32), 1) for i in range(400)]
    batches = Batches.shuffled(rows, 8, None, 1.0, 3)
    lengths = [len(row.ids) for row in (batches[i] for i in range(400))]
    padded = sum(8 * max(lengths[i : i + 8]) for i in range(0, 400, 8))
    assert padded < 1.1 * sum(lengths)


def test_rows_over_the_limit_are_left_out_and_counted(bench: Bench) -> None:
    pairs = [*PAIRS, pair(90, answer="seven " * 200)]
    done = bench.do(train, TRAIN, pairs=bench.put(pairs))
    assert done.metrics["rows"] == 12
    assert "1 of 13 training rows are longer than training.maxTokens (128)" in done.result.warnings[0]


def test_with_all_rows_over_the_limit_there_is_nothing_to_train_on(bench: Bench) -> None:
    assert failure_of(bench, {"maxTokens": 8}).reason == "NoRows"


def test_the_adapter_of_the_round_before_goes_on_learning(bench: Bench) -> None:
    parameters = {**TRAIN, "learningRate": 0.02, "length": {"steps": 30}}
    first = bench.do(train, parameters, pairs=bench.put(PAIRS))
    second = bench.do(train, parameters, pairs=bench.put(PAIRS), adapter=first.digest("adapter"))
    assert second.metrics["firstLoss"] < first.metrics["firstLoss"] / 2
    assert second.digest("adapter") != first.digest("adapter")


def test_settings_that_differ_from_the_adapter_to_continue_are_named_with_both_values(bench: Bench) -> None:
    adapter = bench.do(train, TRAIN, pairs=bench.put(PAIRS)).digest("adapter")
    for name, value, message in (
        ("rank", 16, "training.rank is 16, but the adapter to continue has 4"),
        ("alpha", 99, "training.alpha is 99.0, but the adapter to continue has 8"),
        ("layers", [1], "training.layers is [1], but the adapter to continue has []"),
        ("targetModules", ["q_proj"], "training.targetModules is ['q_proj'], but the adapter to continue has ['down"),
    ):
        failure = failure_of(bench, {name: value}, adapter=adapter)
        assert (failure.reason, failure.code) == ("AdapterDiffers", 40)
        assert message in str(failure)


def test_an_unknown_module_is_named_with_those_that_exist(bench: Bench) -> None:
    failure = failure_of(bench, {"targetModules": ["q_proj", "c_attn"]})
    assert (failure.reason, failure.code) == ("TargetModuleUnknown", 40)
    assert "no linear module c_attn; it has down_proj, gate_proj, k_proj" in str(failure)


def test_an_unknown_layer_is_named_with_those_that_exist(bench: Bench) -> None:
    failure = failure_of(bench, {"layers": [1, 2]})
    assert (failure.reason, failure.code) == ("LayerUnknown", 40)
    assert "no layer 2; its layers are 0 to 1" in str(failure)


def test_without_names_every_linear_layer_but_the_head_is_adapted(session: ModelSession) -> None:
    config = lora_config(TrainParameters.model_validate(TRAIN), session.base)
    names = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert set(config.target_modules or ()) == names


def test_only_the_layers_asked_for_are_adapted(bench: Bench) -> None:
    done = bench.do(train, {**TRAIN, "layers": [1]}, pairs=bench.put(PAIRS))
    weights = load_file(done.result.outputs["adapter"].path / "adapter_model.safetensors")
    assert {name.split(".")[4] for name in weights} == {"1"}


def test_a_loss_that_is_no_number_ends_the_training_with_advice(bench: Bench) -> None:
    failure = failure_of(bench, {"learningRate": 1e30, "warmupRatio": 0.0, "length": {"steps": 8}})
    assert (failure.reason, failure.code) == ("LossNotFinite", 40)
    assert "training.learningRate 1e+30" in str(failure)


def test_so_does_a_gradient_that_is_no_number_also_of_the_last_step(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute_loss = AnswerTrainer.compute_loss

    def steep(self: AnswerTrainer, model: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        trained = next(p for p in model.parameters() if p.requires_grad)
        return compute_loss(self, model, *args, **kwargs) + (trained * 0).sqrt().sum()

    monkeypatch.setattr(AnswerTrainer, "compute_loss", steep)
    failure = failure_of(bench, {"length": {"steps": 1}})
    assert (failure.reason, failure.code) == ("LossNotFinite", 40)
    assert "the gradient of training step 1 of 1 is nan" in str(failure)


SELECTION = {"strategy": "Hard", "size": 3, "maxIFD": None}


def with_history(bench: Bench) -> dict[str, str]:
    """Two earlier rounds of four pairs with scores."""
    inputs = {}
    for round_ in (1, 2):
        pairs = [pair(100 * round_ + i) for i in range(4)]
        scores = [{"id": row["id"], "ifd": round_ / 10 + i / 100} for i, row in enumerate(pairs)]
        inputs |= {f"pairs_{round_}": bench.put(pairs), f"scores_{round_}": bench.put(scores)}
    return inputs


def test_the_chosen_pairs_of_earlier_rounds_are_trained_again(bench: Bench) -> None:
    done = bench.do(train, {**TRAIN, "round": 3, "selection": SELECTION}, pairs=bench.put(PAIRS), **with_history(bench))
    assert done.rows("selection") == [{"id": f"d20{i}-q1", "round": 2} for i in (3, 2, 1)]
    assert done.metrics["history"] == 3
    assert done.metrics["rows"] == 15
    assert done.result.warnings == []


def test_a_selection_larger_than_the_history_is_a_warning_with_both_numbers(bench: Bench) -> None:
    parameters = {**TRAIN, "round": 3, "selection": {**SELECTION, "size": 50}}
    done = bench.do(train, parameters, pairs=bench.put(PAIRS), **with_history(bench))
    assert done.metrics["history"] == 8
    assert len(done.result.warnings) == 1
    assert "asks for 50 pairs of earlier rounds, 8 can be had" in done.result.warnings[0]


def test_the_model_card_names_every_input(bench: Bench) -> None:
    pairs = bench.put(PAIRS)
    done = bench.do(train, TRAIN, pairs=pairs)
    card = done.result.outputs["card"].path.read_text(encoding="utf-8")
    assert pairs in card
    assert "| learningRate | 0.001 |" in card


def test_the_adapter_loads_with_plain_peft(bench: Bench) -> None:
    folder = bench.do(train, TRAIN, pairs=bench.put(PAIRS)).result.outputs["adapter"].path
    config = PeftConfig.from_pretrained(folder)
    assert json.loads((folder / "adapter_config.json").read_bytes())["r"] == config.r == 4
    assert not list(folder.parent.glob("checkpoint*"))
