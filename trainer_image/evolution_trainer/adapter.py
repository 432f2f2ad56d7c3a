"""LoRA adapters in PEFT's format: what a run's settings ask for, and files whose bytes depend on the weights alone."""

from pathlib import Path
from typing import Any

from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file

from evolution.plan.manifest import Record
from evolution.plan.stage import canonical_json
from evolution.plan.worker import ExitCode
from evolution_trainer.base_model import adapter_settings, linear_modules
from evolution_trainer.failure import StageFailed


class AdapterParameters(Record):
    """The part of `spec.training` that describes the adapter."""

    rank: int
    alpha: float
    dropout: float
    target_modules: tuple[str, ...]
    layers: tuple[int, ...]


def lora_config(parameters: AdapterParameters, model: Any) -> LoraConfig:
    """Settings of a fresh adapter for `model`.

    Raises:
        StageFailed: TargetModuleUnknown or LayerUnknown (bad spec), naming what the model has.
    """
    known = sorted({name.rpartition(".")[2] for name in linear_modules(model)})
    unknown = [name for name in parameters.target_modules if name not in known]
    if unknown:
        raise StageFailed(
            "TargetModuleUnknown",
            f"training.targetModules: the model has no linear module {', '.join(unknown)}; it has {', '.join(known)}",
            ExitCode.BAD_SPEC,
        )
    layers = int(model.config.get_text_config().num_hidden_layers)
    beyond = [str(layer) for layer in parameters.layers if layer >= layers]
    if beyond:
        raise StageFailed(
            "LayerUnknown",
            f"training.layers: the model has no layer {', '.join(beyond)}; its layers are 0 to {layers - 1}",
            ExitCode.BAD_SPEC,
        )
    return LoraConfig(
        r=parameters.rank,
        lora_alpha=parameters.alpha,  # type: ignore[arg-type]  # PEFT takes any number
        lora_dropout=parameters.dropout,
        target_modules=list(parameters.target_modules) or known,
        layers_to_transform=list(parameters.layers) or None,
        task_type="CAUSAL_LM",
    )


def check_settings(parameters: AdapterParameters, adapter: Path) -> None:
    """See that the adapter to go on with is what the run's settings describe; empty lists accept what it has.

    Raises:
        StageFailed: AdapterDiffers (bad spec), naming both values.
    """
    settings = adapter_settings(adapter)
    wanted = {
        "rank": (parameters.rank, settings.get("r")),
        "alpha": (parameters.alpha, settings.get("lora_alpha")),
        "targetModules": (sorted(parameters.target_modules), _listed(settings.get("target_modules"))),
        "layers": (sorted(parameters.layers), _listed(settings.get("layers_to_transform"))),
    }
    for field, (value, found) in wanted.items():
        if value != [] and value != found:
            raise StageFailed(
                "AdapterDiffers",
                f"training.{field} is {value}, but the adapter to continue has {found}; "
                f"set training.{field} to {found}, or start afresh with training.initFrom: Base",
                ExitCode.BAD_SPEC,
            )


def save_adapter(model: Any, folder: Path) -> None:
    """Write the adapter attached to `model` as `adapter_config.json` and `adapter_model.safetensors`.

    The same weights give the same bytes: sets are sorted, and nothing tells where the base model lay.
    """
    folder.mkdir()
    settings = model.peft_config["default"].to_dict()
    settings |= {"base_model_name_or_path": None, "revision": None, "inference_mode": True}
    settings = {key: sorted(value) if isinstance(value, set) else value for key, value in settings.items()}
    settings["target_modules"] = sorted(settings["target_modules"])
    (folder / "adapter_config.json").write_bytes(canonical_json(settings))
    weights = get_peft_model_state_dict(model, save_embedding_layers=False)
    contiguous = {key: weights[key].detach().float().cpu().contiguous() for key in sorted(weights)}
    save_file(contiguous, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return sorted(value) if isinstance(value, list) else [value]
