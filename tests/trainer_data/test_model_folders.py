"""Folders of models and adapters: what identifies them, and what is said of one that cannot be used."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from trainer_data.preparing import MODEL, Preparation

from evolution.plan.stage import canonical_json, sha256
from evolution.plan.worker import ExitCode
from evolution_trainer import model_files
from evolution_trainer.failure import StageFailed
from evolution_trainer.model import ModelSession

Q_PROJ = "model.layers.0.self_attn.q_proj"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the quickstart's model."""
    return Path(shutil.copytree(MODEL, tmp_path / "model"))


def listing_digest(folder: Path) -> str:
    return sha256(canonical_json(model_files.listing(folder)))


def failure(action: Callable[[], object]) -> StageFailed:
    with pytest.raises(StageFailed) as caught:
        action()
    assert caught.value.code == ExitCode.BAD_INPUT
    return caught.value


def remove(*names: str) -> Callable[[Path], None]:
    return lambda folder: [(folder / name).unlink() for name in names] and None


def pickled_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def cut_short(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def index_with_missing_shard(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    weights = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))


def adapter_instead(folder: Path) -> None:
    (folder / "config.json").rename(folder / "adapter_config.json")


def test_a_model_is_identified_by_its_files_and_described_by_its_size(preparation: Preparation) -> None:
    prepared = preparation.run(source="Model", uri=str(MODEL), revision="")
    listing = json.loads(prepared.bytes("model"))
    weights = load_file(MODEL / "model.safetensors")
    config = json.loads((MODEL / "config.json").read_text())
    assert [file["name"] for file in listing["files"]] == [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert listing["files"][1]["digest"] == sha256((MODEL / "config.json").read_bytes())
    assert listing["parameters"] == sum(weight.size for weight in weights.values())
    assert (listing["architecture"], listing["vocabulary"]) == (config["architectures"][0], config["vocab_size"])
    assert prepared.result.metrics["files"] == 6


def test_where_a_model_lies_and_what_lies_beside_it_does_not_matter(model: Path) -> None:
    (model / "notes.md").write_text("other")
    (model / "consolidated.safetensors").write_bytes(b"not loaded")
    assert listing_digest(model) == listing_digest(MODEL)


def test_a_model_in_shards_is_identified_by_the_shards_that_its_index_names(model: Path) -> None:
    whole = model_files.listing(model)["parameters"]
    weights = load_file(model / "model.safetensors")
    names = sorted(weights)
    halves = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in halves.items():
        save_file({name: weights[name] for name in part}, model / file)
    places = {name: file for file, part in halves.items() for name in part}
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    (model / "model.safetensors").unlink()
    listing = model_files.listing(model)
    assert listing["parameters"] == whole
    assert {*halves, "model.safetensors.index.json"} < {file["name"] for file in listing["files"]}


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (shutil.rmtree, ["is no folder"]),
        (remove("config.json"), ["has no config.json", "model.uri"]),
        (adapter_instead, ["is an adapter", "model.adapterURI"]),
        (remove("tokenizer.json"), ["has no tokenizer"]),
        (remove("chat_template.jinja"), ["has no chat template", "instruction-tuned"]),
        (remove("model.safetensors"), ["has no weights", "model.safetensors"]),
        (pickled_only, ["pytorch_model.bin", "any code", "convert them to safetensors"]),
        (cut_short, ["model.safetensors", "not a whole safetensors file"]),
        (index_with_missing_shard, ["model-00002-of-00002.safetensors", "missing"]),
        (lambda folder: (folder / "config.json").write_text("{"), ["config.json", "cannot be read as JSON"]),
        (lambda folder: (folder / "config.json").write_text("[]"), ["config.json", "must hold a JSON object"]),
    ],
)
def test_a_model_that_cannot_be_used_is_refused_with_what_is_missing(
    model: Path, spoil: Callable[[Path], object], words: list[str]
) -> None:
    spoil(model)
    refused = failure(lambda: model_files.listing(model))
    assert refused.reason == "ModelUnusable"
    for word in words:
        assert word in str(refused)


def test_a_chat_template_may_stand_in_the_tokenizer_settings(model: Path) -> None:
    template = (model / "chat_template.jinja").read_text()
    (model / "chat_template.jinja").unlink()
    settings = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": template}))
    assert model_files.listing(model)


def test_a_worker_refuses_a_model_that_changed_since_it_was_prepared(model: Path, tmp_path: Path) -> None:
    session = ModelSession(str(model), tmp_path)
    session.expect(listing_digest(model))
    assert session.folder == model
    template = model / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    changed = ModelSession(str(model), tmp_path)
    changed.expect(listing_digest(MODEL))
    refused = failure(lambda: changed.folder)
    assert refused.reason == "ModelChanged"
    assert listing_digest(MODEL) in str(refused)


def test_a_file_of_the_same_size_that_was_replaced_is_noticed(model: Path) -> None:
    before = listing_digest(model)
    path = model / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(0, 1))
    assert listing_digest(model) != before


def adapter_folder(folder: Path, settings: dict[str, Any] | None = None, **weights: tuple[int, int]) -> Path:
    """A PEFT folder with LoRA of rank 4 for q_proj of the first layer, unless `weights` says otherwise."""
    folder.mkdir()
    rows, columns = load_file(MODEL / "model.safetensors")[f"{Q_PROJ}.weight"].shape
    shapes = {"lora_A": (4, columns), "lora_B": (rows, 4)} | weights
    save_file(
        {f"base_model.model.{Q_PROJ}.{name}.weight": np.zeros(shape, np.float32) for name, shape in shapes.items()},
        folder / "adapter_model.safetensors",
    )
    usual = {
        "peft_type": "LORA",
        "r": 4,
        "base_model_name_or_path": "/somewhere",
        "target_modules": ["v_proj", "q_proj"],
    }
    (folder / "adapter_config.json").write_text(json.dumps(usual | (settings or {}), indent=2))
    return folder


def prepared_adapter(preparation: Preparation, source: Path) -> Path:
    return preparation.run(source="Adapter", uri=str(source), revision="").result.outputs["adapter"].path


def test_an_adapter_becomes_two_files_that_do_not_tell_where_its_model_lay(
    preparation: Preparation, tmp_path: Path
) -> None:
    one = prepared_adapter(preparation, adapter_folder(tmp_path / "one"))
    moved = {"base_model_name_or_path": "elsewhere", "target_modules": ["q_proj", "v_proj"]}
    other = prepared_adapter(preparation, adapter_folder(tmp_path / "other", moved))
    assert sorted(path.name for path in one.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
    settings = json.loads((one / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] is None
    assert settings["target_modules"] == ["q_proj", "v_proj"]


def test_an_adapter_of_another_model_is_refused_with_module_and_both_shapes(
    preparation: Preparation, tmp_path: Path
) -> None:
    width = load_file(MODEL / "model.safetensors")[f"{Q_PROJ}.weight"].shape[1]
    source = adapter_folder(tmp_path / "adapter", lora_A=(4, 96))
    refused = failure(lambda: prepared_adapter(preparation, source))
    assert refused.reason == "AdapterDoesNotFit"
    assert f"{Q_PROJ}: the adapter's lora_A is [4, 96], the model needs [4, {width}]" in str(refused)
    refused = failure(lambda: prepared_adapter(preparation, adapter_folder(tmp_path / "rank", lora_B=(width, 8))))
    assert "the adapter's lora_B is" in str(refused)


def test_an_adapter_for_a_module_that_the_model_lacks_is_refused(preparation: Preparation, tmp_path: Path) -> None:
    source = adapter_folder(tmp_path / "adapter")
    weights = load_file(source / "adapter_model.safetensors")
    beyond = {name.replace("layers.0", "layers.99"): weight for name, weight in weights.items()}
    save_file(beyond, source / "adapter_model.safetensors")
    refused = failure(lambda: prepared_adapter(preparation, source))
    assert refused.reason == "AdapterDoesNotFit"
    assert "model.layers.99.self_attn.q_proj" in str(refused)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (remove("adapter_config.json"), ["has no adapter_config.json", "model.adapterURI"]),
        (remove("adapter_model.safetensors"), ["has no adapter_model.safetensors"]),
        (
            lambda folder: (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin"),
            ["adapter_model.bin", "any code", "safetensors"],
        ),
        (lambda folder: (folder / "adapter_config.json").write_text('{"peft_type": "IA3"}'), ["'IA3'", "only LORA"]),
        (lambda folder: save_file({"x": np.zeros(1)}, folder / "adapter_model.safetensors"), ["no LoRA weights"]),
    ],
)
def test_an_adapter_that_cannot_be_used_is_refused(
    preparation: Preparation, tmp_path: Path, spoil: Callable[[Path], object], words: list[str]
) -> None:
    source = adapter_folder(tmp_path / "adapter")
    spoil(source)
    refused = failure(lambda: prepared_adapter(preparation, source))
    assert refused.reason == "AdapterUnusable"
    for word in words:
        assert word in str(refused)
