"""The base model in memory, and adapters that are attached to it, never merged, and taken off again.

Imports torch and transformers, which takes seconds; hence apart from `evolution_trainer.model`. peft is imported with
the first adapter.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.utils import logging

from evolution.plan.worker import ExitCode
from evolution_trainer.failure import StageFailed

if TYPE_CHECKING:
    from peft import LoraConfig

LORA_PREFIX = "base_model.model."
SMALL = 20_000_000
"""Parameters below which one CPU thread is the best number of threads."""
_THREADS = torch.get_num_threads()

torch.set_deterministic_debug_mode("warn")  # `use_deterministic_algorithms` would import the compiler to tell it, too
torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # has no stub
logging.set_verbosity_error()  # type: ignore[no-untyped-call]
logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def precision(device: torch.device) -> torch.dtype:
    """Of a model that only reads and writes."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def load(folder: Path, device: torch.device, end_tokens: Sequence[int], pad_token: int) -> Any:
    """The causal language model in `folder`, frozen: fp32 on a CPU, bf16 on a GPU; from safetensors only."""
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=precision(device),
        attn_implementation="sdpa",
        use_safetensors=True,
    )
    model = model.to(device)
    # `generate` fills whatever a caller leaves open from here: the model's own sampling settings must not leak in.
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        eos_token_id=list(end_tokens), pad_token_id=pad_token
    )
    model.requires_grad_(False)
    # Small matrices are not worth sharing out: waiting for a second thread costs more than it gains, beside other load
    # many times more.
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1 if model.num_parameters() < SMALL else _THREADS)
    return model


def load_quantized(folder: Path, device: torch.device) -> Any:
    """The model in `folder` with its linear layers in 4-bit NF4, frozen, for training an adapter on it.

    Raises:
        StageFailed: QuantizationUnavailable (bad spec).
    """
    require_bitsandbytes()
    from peft import prepare_model_for_kbit_training
    from transformers import BitsAndBytesConfig

    settings = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=precision(device),
    )
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=precision(device),
        attn_implementation="sdpa",
        use_safetensors=True,
        quantization_config=settings,
        device_map={"": device},
    )
    return prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)


def require_bitsandbytes() -> None:
    """See that 4-bit training is possible here."""
    if find_spec("bitsandbytes") is None:
        raise StageFailed(
            "QuantizationUnavailable",
            "training.quantization NF4 needs the package bitsandbytes, which this worker lacks: install the extra "
            "qlora (pip install 'evolution[qlora]'), or set training.quantization to None",
            ExitCode.BAD_SPEC,
        )


@contextmanager
def attached(base: Any, adapter: Path, *, trainable: bool) -> Iterator[Any]:
    """`base` with the PEFT adapter in the folder `adapter`, for the length of a `with` block.

    Raises:
        StageFailed: AdapterDoesNotFit, naming the module and both shapes.
    """
    from peft import PeftModel

    check_adapter_fits(adapter, base)
    with _for_a_while(base, PeftModel.from_pretrained(base, adapter, is_trainable=trainable)) as model:
        yield model


@contextmanager
def with_new_adapter(base: Any, config: "LoraConfig") -> Iterator[Any]:
    """`base` with a fresh, trainable adapter, for the length of a `with` block."""
    from peft import get_peft_model

    with _for_a_while(base, get_peft_model(base, config)) as model:
        yield model


@contextmanager
def _for_a_while(base: Any, model: Any) -> Iterator[Any]:
    try:
        yield model.eval()
    finally:
        model.unload()
        quiet(base)


def quiet(base: Any) -> None:
    """Bring a model that was trained back to where it only reads and writes."""
    base.requires_grad_(False)
    if base.is_gradient_checkpointing:
        base.gradient_checkpointing_disable()
    base.eval()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def adapter_settings(adapter: Path) -> dict[str, Any]:
    """Content of `adapter_config.json`."""
    settings: dict[str, Any] = json.loads((adapter / "adapter_config.json").read_bytes())
    return settings


def check_adapter_fits(adapter: Path, base: Any) -> None:
    """See that every matrix and magnitude of a PEFT folder belongs to a linear module of `base` and has its size.

    Raises:
        StageFailed: AdapterDoesNotFit.
    """
    linear = linear_modules(base)
    try:
        shapes = _shapes(adapter / "adapter_model.safetensors")
        rank = int(adapter_settings(adapter)["r"])
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise StageFailed("AdapterDoesNotFit", f"the adapter is no LoRA adapter in PEFT format: {error}") from error
    for key, shape in shapes.items():
        module, _, matrix = key.removeprefix(LORA_PREFIX).removesuffix(".weight").rpartition(".")
        if matrix not in ("lora_A", "lora_B", "lora_magnitude_vector"):
            raise StageFailed(
                "AdapterDoesNotFit",
                f"{key}: only adapters with lora_A, lora_B and, for DoRA, lora_magnitude_vector are supported",
            )
        if module not in linear:
            raise StageFailed(
                "AdapterDoesNotFit", f"the adapter has weights for {module}, but the model has no such linear module"
            )
        outputs, inputs = linear[module]
        wanted = {"lora_A": (rank, inputs), "lora_B": (outputs, rank)}.get(matrix, (outputs,))
        if shape != wanted:
            raise StageFailed(
                "AdapterDoesNotFit",
                f"{module}.{matrix}: the adapter has shape {list(shape)}, the model needs {list(wanted)}; "
                "it was trained on another model",
            )


def _shapes(path: Path) -> Mapping[str, tuple[int, ...]]:
    with safe_open(path, framework="pt") as file:
        return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118 (no mapping)


def linear_modules(model: Any) -> dict[str, tuple[int, int]]:
    """(outputs, inputs) of every linear module by name, the output head left out."""
    head = model.get_output_embeddings()
    return {
        name: (module.out_features, module.in_features)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    }
