"""What is trained, as a run's settings ask for it: an adapter in PEFT's format, or all weights; and files whose bytes
depend on the weights alone.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from safetensors.torch import save_file

from evolution.api.run import Quantization, Variant
from evolution.plan.manifest import Record
from evolution.plan.order import Compute
from evolution.plan.serving import unservable
from evolution.plan.stage import canonical_json
from evolution.plan.worker import ExitCode
from evolution_trainer import full_weights
from evolution_trainer.base_model import (
    adapter_settings,
    attached,
    linear_modules,
    require_bitsandbytes,
    with_new_adapter,
)
from evolution_trainer.failure import StageFailed
from evolution_trainer.model import ModelSession
from evolution_trainer.model_files import is_full


class AdapterParameters(Record):
    """The part of `spec.training` that tells what is trained."""

    variant: Variant = "LoRA"
    quantization: Quantization = "None"
    rank: int
    alpha: float
    dropout: float
    target_modules: tuple[str, ...]
    layers: tuple[int, ...]


def check_variant(parameters: AdapterParameters, compute: Compute) -> list[str]:
    """See, before a GPU hour is spent, that what comes out can be used and that this worker can train it; warnings.

    Raises:
        StageFailed: EngineCannotServe or QuantizationUnavailable (bad spec), with what would do instead.
    """
    if problem := unservable(parameters.variant, compute.engine):
        raise StageFailed("EngineCannotServe", problem, ExitCode.BAD_SPEC)
    if parameters.quantization == "None":
        return []
    require_bitsandbytes()
    seen = "the adapter was trained on 4-bit weights, and is used with the base model in full precision"
    return [f"training.quantization NF4: {seen}, which answers slightly differently"]


@contextmanager
def trainable(session: ModelSession, parameters: AdapterParameters, adapter: Path | None) -> Iterator[Any]:
    """The model with what `parameters` ask for trainable, going on from `adapter` (None: afresh); afterwards the bare
    model is as it was.

    Raises:
        StageFailed: AdapterDiffers, TargetModuleUnknown, LayerUnknown (bad spec); AdapterDoesNotFit.
    """
    if adapter is not None:
        check_settings(parameters, adapter)
    with session.quantized() if parameters.quantization == "NF4" else nullcontext(session.base) as base:
        if parameters.variant == "Full":
            changed = full_weights.trainable(base, adapter)
        elif adapter is None:
            changed = with_new_adapter(base, lora_config(parameters, base))
        else:
            changed = attached(base, adapter, trainable=True)
        with changed as model:
            yield model


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
        use_rslora=parameters.variant == "RSLoRA",
        use_dora=parameters.variant == "DoRA",
        task_type="CAUSAL_LM",
    )


def check_settings(parameters: AdapterParameters, adapter: Path) -> None:
    """See that the adapter to go on with is what the run's settings describe; empty lists accept what it has.

    Raises:
        StageFailed: AdapterDiffers (bad spec), naming both values.
    """
    wanted: dict[str, tuple[Any, Any]] = {"variant": (parameters.variant, _variant(adapter))}
    if not is_full(adapter) and parameters.variant != "Full":
        settings = adapter_settings(adapter)
        wanted |= {
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


def save_trained(model: Any, folder: Path, session: ModelSession) -> None:
    """Write what was trained in `model`: an adapter as `adapter_config.json` and `adapter_model.safetensors`, or a
    whole model.

    The same weights give the same bytes: sets are sorted, and nothing tells where the base model lay.
    """
    if not isinstance(model, PeftModel):
        full_weights.save(model, folder, session)
        return
    folder.mkdir()
    settings = model.peft_config["default"].to_dict()
    settings |= {"base_model_name_or_path": None, "revision": None, "inference_mode": True}
    settings = {key: sorted(value) if isinstance(value, set) else value for key, value in settings.items()}
    settings["target_modules"] = sorted(settings["target_modules"])
    (folder / "adapter_config.json").write_bytes(canonical_json(settings))
    weights = get_peft_model_state_dict(model, save_embedding_layers=False)
    contiguous = {key: weights[key].detach().float().cpu().contiguous() for key in sorted(weights)}
    save_file(contiguous, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def _variant(folder: Path) -> str:
    if is_full(folder):
        return "Full"
    settings = adapter_settings(folder)
    names = {"use_dora": "DoRA", "use_rslora": "RSLoRA"}
    return " with ".join(name for key, name in names.items() if settings.get(key)) or "LoRA"


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return sorted(value) if isinstance(value, list) else [value]
