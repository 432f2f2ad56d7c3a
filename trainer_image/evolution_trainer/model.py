"""The base model of a worker: read once, used bare or with an adapter that is attached, never merged, and taken off."""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils import logging as transformers_logging

from evolution.store.sources import local_copy
from evolution_trainer import model_files
from evolution_trainer.chat import ChatFormat
from evolution_trainer.stage import StageFailed

LORA_PREFIX = "base_model.model."
SMALL = 20_000_000
"""Parameters below which one CPU thread is the best number of threads."""


class ModelSession:
    """The base model at `uri`. Nothing is read before it is needed; what is read stays.

    Raises (from whatever reads the model first):
        StageFailed: ModelUnusable, with what is wrong with which file; or what `model_files.verify` found.
        SourceUnusable: nothing can be read at `uri`.
    """

    def __init__(self, uri: str, cache: Path, on_load: Callable[[float], None] = lambda _: None) -> None:
        self.uri = uri
        self.load_seconds = 0.0
        """Spent reading the model so far."""
        self.halvings = 0
        """How often the GPU ran out of memory; every time halves the token budgets for good."""
        self._cache = cache
        self._on_load = on_load
        self._expected: str | None = None
        self._verified: str | None = None

    def expect(self, digest: str | None) -> None:
        """What the model must contain (digest of its listing); checked before it is read."""
        self._expected = digest

    @property
    def folder(self) -> Path:
        """Local folder with the model's files, verified."""
        folder = self._local_folder
        if self._expected is not None and self._expected != self._verified:
            model_files.verify(folder, self._expected)
            self._verified = self._expected
        return folder

    @cached_property
    def _local_folder(self) -> Path:
        return local_copy(self.uri, self._cache)

    @property
    def device(self) -> torch.device:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def budget(self, tokens: Mapping[str, int]) -> int:
        """Tokens per batch, given what is allowed by type of device."""
        return max(1, tokens[self.device.type] >> self.halvings)

    def halve_budget(self) -> None:
        self.halvings += 1
        torch.cuda.empty_cache()

    @cached_property
    def tokenizer(self) -> Any:
        """The model's tokenizer; needs no weights."""
        with self._readable("tokenizer"):
            return AutoTokenizer.from_pretrained(self.folder)

    @cached_property
    def chat(self) -> ChatFormat:
        return ChatFormat(self.tokenizer, self.uri)

    @cached_property
    def config(self) -> Any:
        with self._readable("config.json"):
            return AutoConfig.from_pretrained(self.folder)

    @property
    def window(self) -> int:
        """Longest sequence the model was made for, in tokens."""
        return int(self.config.get_text_config().max_position_embeddings)

    @cached_property
    def end_tokens(self) -> list[int]:
        """Tokens that end an answer."""
        own = self._generation_config.eos_token_id
        own = own if isinstance(own, list) else [own]
        return sorted({t for t in (*own, self.tokenizer.eos_token_id, self.chat.end[-1]) if t is not None})

    @property
    def pad_token(self) -> int:
        pad: int | None = self.tokenizer.pad_token_id
        return self.end_tokens[0] if pad is None else pad

    @contextmanager
    def adapted(self, adapter: Path | None, *, trainable: bool = False) -> Iterator[Any]:
        """The model with the PEFT adapter in folder `adapter` (None: bare) for the length of a `with` block.

        Raises:
            StageFailed: AdapterDoesNotFit, naming the module and both shapes.
        """
        if adapter is None:
            yield self.base.eval()
            return
        check_adapter_fits(adapter, self.base)
        model = PeftModel.from_pretrained(self.base, adapter, is_trainable=trainable)
        yield from self._attached(model)

    @contextmanager
    def with_new_adapter(self, config: LoraConfig) -> Iterator[Any]:
        """The model with a fresh, trainable adapter for the length of a `with` block."""
        yield from self._attached(get_peft_model(self.base, config))

    def _attached(self, model: Any) -> Iterator[Any]:
        try:
            yield model.eval()
        finally:
            model.unload()
            self.base.requires_grad_(False)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    @cached_property
    def _generation_config(self) -> Any:
        if (self.folder / "generation_config.json").exists():
            with self._readable("generation_config.json"):
                return GenerationConfig.from_pretrained(self.folder)
        return GenerationConfig(  # type: ignore[no-untyped-call]
            eos_token_id=self.config.get_text_config().eos_token_id
        )

    @cached_property
    def base(self) -> Any:
        start = time.monotonic()
        folder = self.folder
        with self._readable("weights"):
            model: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=torch.bfloat16 if self.device.type == "cuda" else torch.float32,
                attn_implementation="sdpa",
                use_safetensors=True,
            )
        model = model.to(self.device)
        # `generate` fills whatever a caller leaves open from here: the model's own sampling settings must not leak in.
        model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
            eos_token_id=self.end_tokens, pad_token_id=self.pad_token
        )
        model.requires_grad_(False)
        _choose_threads(model)
        seconds = time.monotonic() - start
        self.load_seconds += seconds
        self._on_load(seconds)
        return model

    @contextmanager
    def _readable(self, what: str) -> Iterator[None]:
        try:
            yield
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            ImportError,
            RuntimeError,
            SafetensorError,
        ) as error:
            cause = str(error).strip().split("\n")[0] or type(error).__name__
            raise StageFailed(
                "ModelUnusable",
                f"{self.uri}: the {what} cannot be read: {cause}. A model is a Hugging Face folder of a causal "
                "language model with config.json, tokenizer and safetensors weights",
            ) from error


def adapter_settings(adapter: Path) -> dict[str, Any]:
    """Content of `adapter_config.json`."""
    settings: dict[str, Any] = json.loads((adapter / "adapter_config.json").read_bytes())
    return settings


def check_adapter_fits(adapter: Path, model: Any) -> None:
    """See that every LoRA matrix of a PEFT folder belongs to a linear module of `model` and has its size.

    Raises:
        StageFailed: AdapterDoesNotFit.
    """
    linear = linear_modules(model)
    try:
        shapes = _adapter_shapes(adapter / "adapter_model.safetensors")
        rank = int(adapter_settings(adapter)["r"])
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise StageFailed("AdapterDoesNotFit", f"the adapter is no LoRA adapter in PEFT format: {error}") from error
    for key, shape in shapes.items():
        module, _, matrix = key.removeprefix(LORA_PREFIX).removesuffix(".weight").rpartition(".")
        if matrix not in ("lora_A", "lora_B"):
            raise StageFailed("AdapterDoesNotFit", f"{key}: only LoRA adapters with lora_A and lora_B are supported")
        if module not in linear:
            raise StageFailed(
                "AdapterDoesNotFit", f"the adapter has weights for {module}, but the model has no such linear module"
            )
        outputs, inputs = linear[module]
        wanted = (rank, inputs) if matrix == "lora_A" else (outputs, rank)
        if shape != wanted:
            raise StageFailed(
                "AdapterDoesNotFit",
                f"{module}.{matrix}: the adapter has shape {list(shape)}, the model needs {list(wanted)}; "
                "it was trained on another model",
            )


def _adapter_shapes(path: Path) -> Mapping[str, tuple[int, ...]]:
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


def _choose_threads(model: Any) -> None:
    """Small matrices are not worth sharing out: waiting for a second thread costs more than it gains, most of all
    beside other load."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1 if model.num_parameters() < SMALL else _THREADS)


_THREADS = torch.get_num_threads()
torch.use_deterministic_algorithms(True, warn_only=True)
torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # has no stub
transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
