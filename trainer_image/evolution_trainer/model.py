"""The base model that a worker keeps: tokenizer, chat format and weights, each read at first use and once."""

import gc
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from evolution.store.source_files import OnProgress, quiet
from evolution_trainer import model_files
from evolution_trainer.chat import ChatFormat
from evolution_trainer.failure import StageFailed
from evolution_trainer.libraries import import_transformers
from evolution_trainer.timing import Clock, brought_here

if TYPE_CHECKING:
    import torch

# torch, transformers and peft take seconds to import, and many a stage fails or is done without them: they are
# imported where they are first needed.


class Tenant(Protocol):
    """What serves the model from another process, on the same GPU."""

    def close(self) -> None:
        """End it, so that the GPU is free; harmless if it has ended."""
        ...


class ModelSession:
    """The base model at `uri`. Nothing is read before it is needed; what is read stays.

    Raises (from whatever reads the model first):
        StageFailed: ModelUnusable, with what is wrong with which file; or what `model_files.verify` found.
        SourceUnusable: nothing can be read at `uri`.
    """

    def __init__(self, uri: str, cache: Path, on_load: Callable[[float], None] = lambda _: None) -> None:
        self.uri = uri
        self.clock = Clock()
        """Of what is being done; told when the model is downloaded and read."""
        self.halvings = 0
        """How often the GPU ran out of memory; every time halves the token budgets for good."""
        self.cache = cache
        self.tenant: Tenant | None = None
        """Leaves when this process reads the weights itself, or they are to be others."""
        self._on_load = on_load
        self._progress: OnProgress = quiet
        self._expected: str | None = None
        self._verified: str | None = None

    def expect(self, digest: str | None, progress: OnProgress = quiet, clock: Clock | None = None) -> None:
        """What the model must contain from here on (digest of its listing), checked before it is read; None: whatever
        lies at `uri` now. `progress` hears how far its download and check are, and `clock` how long they take.
        """
        self.clock = clock or self.clock
        self._expected = digest
        self._progress = progress
        if digest is None:
            self.__dict__.pop("_local_folder", None)
        elif digest != self._verified:
            self.vacate()
            for read in ("tokenizer", "chat", "config", "end_tokens", "base"):
                self.__dict__.pop(read, None)

    @property
    def folder(self) -> Path:
        """Local folder with the model's files, verified."""
        folder = self._local_folder
        if self._expected is not None and self._expected != self._verified:
            progress = self._progress
            with self.clock.moving():
                model_files.verify(folder, self._expected, lambda done, total: progress("files checked", done, total))
            self._verified = self._expected
        return folder

    @property
    def digest(self) -> str:
        """Of the model's listing; empty where nobody asked for a certain model."""
        return self._expected or ""

    @cached_property
    def _local_folder(self) -> Path:
        return brought_here(self.uri, self.cache, self._progress, self.clock)

    @cached_property
    def device(self) -> "torch.device":
        import torch

        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def budget(self, tokens: Mapping[str, int]) -> int:
        """Tokens per batch, given what is allowed by type of device."""
        return max(1, tokens[self.device.type] >> self.halvings)

    def halve_budget(self) -> None:
        """The GPU ran out of memory."""
        import torch

        self.halvings += 1
        torch.cuda.empty_cache()

    @cached_property
    def tokenizer(self) -> Any:
        """The model's tokenizer; needs no weights."""
        folder = self.folder
        with self._loading("tokenizer"):
            import_transformers()
            from transformers import AutoTokenizer

            return AutoTokenizer.from_pretrained(folder)

    @cached_property
    def chat(self) -> ChatFormat:
        return ChatFormat(self.tokenizer, self.uri)

    @cached_property
    def config(self) -> Any:
        folder = self.folder
        with self._loading("config.json"):
            import_transformers()
            from transformers import AutoConfig

            return AutoConfig.from_pretrained(folder)

    @property
    def window(self) -> int:
        """Longest sequence the model was made for, in tokens."""
        longest = getattr(self.config.get_text_config(), "max_position_embeddings", None)
        if longest is None:
            raise StageFailed(
                "ModelUnusable",
                f"{self.uri}: the model does not say how long its sequences may be; set max_position_embeddings in its "
                "config.json to the length that it was trained with, in tokens",
            )
        return int(longest)

    @cached_property
    def end_tokens(self) -> list[int]:
        """Tokens that end an answer."""
        settings = self.folder / "generation_config.json"
        with self._loading(settings.name):
            own = json.loads(settings.read_bytes()).get("eos_token_id") if settings.exists() else None
        own = self.config.get_text_config().eos_token_id if own is None else own
        own = own if isinstance(own, list) else [own]
        return sorted({t for t in (*own, self.tokenizer.eos_token_id, self.chat.end[-1]) if t is not None})

    @property
    def pad_token(self) -> int:
        pad: int | None = self.tokenizer.pad_token_id
        return self.end_tokens[0] if pad is None else pad

    @cached_property
    def base(self) -> Any:
        """The bare model in memory."""
        folder, ends, pad = self.folder, self.end_tokens, self.pad_token
        self.vacate()
        start = time.monotonic()
        with self._loading("weights"):
            import_transformers()
            from evolution_trainer import base_model

            model = base_model.load(folder, self.device, ends, pad)
        self._on_load(time.monotonic() - start)
        return model

    def unload(self) -> None:
        """Take the weights out of memory; whoever needs them next reads them again."""
        if self.__dict__.pop("base", None) is not None and self.device.type == "cuda":
            import torch

            gc.collect()
            torch.cuda.empty_cache()

    def vacate(self) -> None:
        """End what serves the model from another process."""
        if self.tenant is not None:
            self.tenant.close()

    def adapted(self, adapter: Path | None) -> AbstractContextManager[Any]:
        """The model with what was trained, in the folder `adapter` (None: bare), for the length of a `with` block: a
        PEFT adapter, or all weights.

        Raises:
            StageFailed: AdapterDoesNotFit, naming the module and both shapes.
        """
        base = self.base
        if adapter is None:
            return nullcontext(base.eval())
        from evolution_trainer import base_model, full_weights

        if model_files.is_full(adapter):
            return full_weights.swapped_in(base, adapter)
        return base_model.attached(base, adapter, trainable=False)

    @contextmanager
    def quantized(self) -> Iterator[Any]:
        """The model with 4-bit weights for training, in place of the bare one, for the length of a `with` block.

        Raises:
            StageFailed: QuantizationUnavailable (bad spec).
        """
        folder, device = self.folder, self.device
        self.unload()
        self.vacate()
        with self._loading("weights"):
            import_transformers()
            from evolution_trainer import base_model

            model = base_model.load_quantized(folder, device)
        yield model

    @contextmanager
    def _loading(self, what: str) -> Iterator[None]:
        """Count the time, and tell people when `what` cannot be read."""
        try:
            with self.clock.loading():
                yield
        except StageFailed:
            raise
        except Exception as error:  # whatever the libraries raise on damaged files
            if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
                raise
            cause = str(error).strip().split("\n")[0] or type(error).__name__
            raise StageFailed(
                "ModelUnusable",
                f"{self.uri}: the {what} cannot be read: {cause}. A model is a Hugging Face folder of a causal "
                "language model with config.json, tokenizer and safetensors weights",
            ) from error
