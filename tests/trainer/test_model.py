import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from stages import TRAIN, Bench, pair

from evolution_trainer import train
from evolution_trainer.failure import StageFailed
from evolution_trainer.model import ModelSession


def logits(session: ModelSession, adapter: Path | None = None) -> torch.Tensor:
    ids = torch.tensor([session.chat.prompt("What is the number of machine seven?")])
    with session.adapted(adapter) as model, torch.no_grad():
        found: torch.Tensor = model(input_ids=ids).logits
        return found


@pytest.fixture
def adapter(bench: Bench) -> Path:
    """An adapter that changes what the model says."""
    done = bench.do(train, TRAIN, pairs=bench.put(map(pair, range(8))))
    return done.result.outputs["adapter"].path


def test_after_an_adapter_the_base_is_bit_for_bit_as_before(session: ModelSession, adapter: Path) -> None:
    before = logits(session)
    assert not torch.equal(logits(session, adapter), before)
    assert torch.equal(logits(session), before)
    names = [name for name, _ in session.base.named_parameters()]
    assert not [name for name in names if "lora" in name]


def test_after_a_training_the_base_is_bit_for_bit_as_before(session: ModelSession, bench: Bench) -> None:
    before = logits(session)
    bench.do(train, TRAIN, pairs=bench.put(map(pair, range(8))))
    assert torch.equal(logits(session), before)
    assert not any(p.requires_grad for p in session.base.parameters())


def test_adapters_may_follow_one_another(session: ModelSession, adapter: Path, bench: Bench) -> None:
    other = bench.do(train, {**TRAIN, "seed": 8, "rank": 2}, pairs=bench.put(map(pair, range(8))))
    first = logits(session, adapter)
    second = logits(session, other.result.outputs["adapter"].path)
    assert not torch.equal(first, second)
    assert torch.equal(logits(session, adapter), first)


def test_a_model_that_does_not_say_how_long_its_sequences_may_be_is_refused_with_the_remedy(
    tiny_model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "bloom", "vocab_size": 8}))
    with pytest.raises(StageFailed, match=r"max_position_embeddings.*config\.json") as failed:
        _ = ModelSession(str(folder), tmp_path).window
    assert failed.value.reason == "ModelUnusable"
    (folder / "config.json").write_text(json.dumps({"model_type": "bloom", "max_position_embeddings": 96}))
    assert ModelSession(str(folder), tmp_path).window == 96


def test_a_model_is_loaded_once_and_only_when_it_is_used(tiny_model: Path, tmp_path: Path) -> None:
    loads: list[float] = []
    session = ModelSession(str(tiny_model), tmp_path, on_load=loads.append)
    assert session.chat.prompt("What?")
    assert session.window == 256
    assert loads == []
    logits(session)
    logits(session)
    assert len(loads) == 1
    assert session.clock.seconds["load"] >= loads[0]


def test_a_model_that_changed_is_not_loaded(tiny_model: Path, tmp_path: Path) -> None:
    session = ModelSession(str(tiny_model), tmp_path)
    session.expect("0" * 64)
    with pytest.raises(StageFailed) as failure:
        logits(session)
    assert failure.value.reason == "ModelChanged"


def test_pickled_weights_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    torch.save({}, tmp_path / "model" / "pytorch_model.bin")
    with pytest.raises(StageFailed) as failure:
        logits(ModelSession(str(tmp_path / "model"), tmp_path))
    assert failure.value.reason == "ModelUnusable"
    assert "safetensors" in str(failure.value)


def test_a_model_without_tokenizer_is_unusable(tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").unlink()
    session = ModelSession(str(tmp_path / "model"), tmp_path)
    session.expect("0" * 64)
    with pytest.raises(StageFailed, match="tokenizer") as failure:
        logits(session)
    assert failure.value.reason == "ModelUnusable"


def test_an_adapter_of_another_size_does_not_fit(session: ModelSession, adapter: Path, tmp_path: Path) -> None:
    shutil.copytree(adapter, tmp_path / "adapter")
    weights = load_file(adapter / "adapter_model.safetensors")
    name = "base_model.model.model.layers.1.mlp.down_proj.lora_A.weight"
    weights[name] = torch.zeros(4, 96)
    save_file(weights, tmp_path / "adapter" / "adapter_model.safetensors")
    with pytest.raises(StageFailed) as failure, session.adapted(tmp_path / "adapter"):
        pass
    assert failure.value.reason == "AdapterDoesNotFit"
    assert "model.layers.1.mlp.down_proj" in str(failure.value)
    assert "[4, 96]" in str(failure.value)
    assert "[4, 64]" in str(failure.value)


def test_an_adapter_for_a_module_that_is_not_there_does_not_fit(
    session: ModelSession, adapter: Path, tmp_path: Path
) -> None:
    shutil.copytree(adapter, tmp_path / "adapter")
    weights = load_file(adapter / "adapter_model.safetensors")
    weights["base_model.model.model.layers.9.mlp.down_proj.lora_A.weight"] = torch.zeros(4, 64)
    save_file(weights, tmp_path / "adapter" / "adapter_model.safetensors")
    with pytest.raises(StageFailed) as failure, session.adapted(tmp_path / "adapter"):
        pass
    assert "model.layers.9.mlp.down_proj" in str(failure.value)
    assert failure.value.reason == "AdapterDoesNotFit"


def test_adapter_files_do_not_tell_where_the_model_lay(adapter: Path, tiny_model: Path) -> None:
    settings = json.loads((adapter / "adapter_config.json").read_bytes())
    assert settings["base_model_name_or_path"] is None
    assert str(tiny_model) not in (adapter / "adapter_config.json").read_text()
    assert sorted(p.name for p in adapter.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
