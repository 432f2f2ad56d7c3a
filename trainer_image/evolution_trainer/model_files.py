"""The files of a model or adapter folder: whether they can be used, and what identifies them. No weights are read."""

import json
import shutil
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from math import prod
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from evolution.plan.stage import canonical_json, sha256
from evolution.store.digests import digest_of
from evolution_trainer.failure import StageFailed

SETTINGS = (
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "*.model",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
)
"""Names of the files that, besides the weights, decide what a model does."""
TOKENIZERS = ("tokenizer.json", "*.model", "vocab.*")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER_SETTINGS = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
FULL_SETTINGS = "full_weights.json"
"""Beside `model.safetensors` with all weights of a model that was trained as a whole."""
_LORA_PREFIX = "base_model.model."

Shape = tuple[int, ...]
Listing = Mapping[str, Any]
OnFile = Callable[[int, int], None]


def listing(folder: Path, on_file: OnFile = lambda _done, _total: None) -> Listing:
    """What identifies the model in `folder`: its files with size and digest, architecture, parameters and vocabulary.

    `on_file` hears how many of how many files were digested.

    Raises:
        StageFailed: ModelUnusable, with what is missing or wrong and how to mend it.
    """
    config = _checked_settings(folder)
    weights = _weights(folder)
    parameters = sum(prod(shape) for path in weights for shape in shapes(path).values())
    index = [folder / INDEX] if (folder / INDEX).exists() and not (folder / WEIGHTS).exists() else []
    files = sorted({*settings_files(folder), *weights, *index}, key=lambda path: path.name)
    entries = []
    for done, path in enumerate(files, start=1):
        entries.append({"name": path.name, "size": path.stat().st_size, "digest": digest_of(path)})
        on_file(done, len(files))
    text_config = config.get("text_config", config)
    return {
        "files": entries,
        "architecture": (config.get("architectures") or [config.get("model_type", "")])[0],
        "parameters": parameters,
        "vocabulary": text_config.get("vocab_size", config.get("vocab_size", 0)),
    }


def settings_files(folder: Path) -> list[Path]:
    """What, besides the weights, makes the model in `folder` what it is: configuration, tokenizer, chat template."""
    return [p for p in folder.iterdir() if p.is_file() and any(fnmatchcase(p.name, pattern) for pattern in SETTINGS)]


def is_full(folder: Path) -> bool:
    """Whether the folder holds all weights of a trained model rather than an adapter."""
    return (folder / FULL_SETTINGS).is_file()


def verify(folder: Path, expected: str, on_file: OnFile = lambda _done, _total: None) -> None:
    """See that `folder` holds the model whose listing has the digest `expected`.

    Raises:
        StageFailed: ModelChanged; ModelUnusable, as `listing`.
    """
    found = sha256(canonical_json(listing(folder, on_file)))
    if found != expected:
        raise StageFailed(
            "ModelChanged",
            f"{folder}: the model is not the one that this run was prepared with (digest of its files: {found}, "
            f"expected: {expected}). Put the files back as they were, or set a new model.revision to go on with these",
        )


def prepare_adapter(source: Path, model: Path, target: Path) -> None:
    """Copy the PEFT adapter in `source`, or all weights of a trained model, into the new folder `target`, after seeing
    that they fit the model in `model`.

    Raises:
        StageFailed: AdapterUnusable, or AdapterDoesNotFit, naming the module and both shapes.
    """
    if is_full(source):
        _prepare_full(source, model, target)
        return
    settings = _adapter_settings(source)
    weights = source / ADAPTER_WEIGHTS
    if not weights.is_file():
        pickled = _matching(source, PICKLES)
        if pickled:
            raise _unusable_adapter(f"{source}: {_refused(pickled)}")
        raise _unusable_adapter(f"{source}: has no {ADAPTER_WEIGHTS}")
    _check_fit(shapes(weights), _base_shapes(model), transposed=bool(settings.get("fan_in_fan_out")))
    target.mkdir()
    (target / ADAPTER_SETTINGS).write_bytes(canonical_json(settings))
    shutil.copyfile(weights, target / ADAPTER_WEIGHTS)


def _prepare_full(source: Path, model: Path, target: Path) -> None:
    settings, weights = _json_object(source / FULL_SETTINGS), source / WEIGHTS
    if not weights.is_file():
        raise _unusable_adapter(f"{source}: has no {WEIGHTS}")
    base = _base_shapes(model)
    for name, shape in shapes(weights).items():
        wanted = base.get(name)
        # A checkpoint may call it differently than the model in memory; what reads it there sees to those.
        if wanted is not None and wanted != shape:
            raise _does_not_fit(f"{name}: the trained weights are {list(shape)}, the model needs {list(wanted)}")
    target.mkdir()
    (target / FULL_SETTINGS).write_bytes(canonical_json(settings))
    for file in (weights, *settings_files(source)):
        shutil.copyfile(file, target / file.name)


def shapes(path: Path) -> dict[str, Shape]:
    """Shape of every tensor of a safetensors file, by name.

    Raises:
        StageFailed: ModelUnusable, if the file is damaged or cut short.
    """
    try:
        with safe_open(path, framework="np") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise _unusable(f"{path}: is not a whole safetensors file ({error}); copy or download it again") from error


def _checked_settings(folder: Path) -> Mapping[str, Any]:
    if not folder.is_dir():
        raise _unusable(
            f"{folder}: is no folder; a model is a Hugging Face folder with config.json, tokenizer and weights"
        )
    if not (folder / "config.json").is_file():
        if (folder / ADAPTER_SETTINGS).is_file():
            raise _unusable(
                f"{folder}: is an adapter, not a model; name it in model.adapterURI and its base model in model.uri"
            )
        raise _unusable(f"{folder}: has no config.json; model.uri must name the folder that holds it")
    config = _json_object(folder / "config.json")
    if not _matching(folder, TOKENIZERS):
        raise _unusable(
            f"{folder}: has no tokenizer (tokenizer.json, tokenizer.model or vocab.json); copy it from the original"
        )
    if not _has_chat_template(folder):
        raise _unusable(
            f"{folder}: has no chat template (chat_template.jinja, or chat_template in tokenizer_config.json); "
            "use an instruction-tuned model, or add its template to the folder"
        )
    return config


def _has_chat_template(folder: Path) -> bool:
    if _matching(folder, ("chat_template.jinja", "chat_template.json")):
        return True
    settings = folder / "tokenizer_config.json"
    return settings.is_file() and bool(_json_object(settings).get("chat_template"))


def _weights(folder: Path) -> list[Path]:
    """The safetensors files that a loader takes: the whole model in one, else what the index names."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        index = _json_object(folder / INDEX).get("weight_map")
        if not isinstance(index, dict) or not index:
            raise _unusable(f"{folder / INDEX}: names no weights (weight_map is missing or empty)")
        names = sorted({str(name) for name in index.values()})
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise _unusable(
                f"{folder}: {INDEX} names {len(names)} files of weights, of which {len(missing)} are missing: "
                f"{', '.join(missing[:5])}{', …' if len(missing) > 5 else ''}; copy or download them again"
            )
        return [folder / name for name in names]
    pickled = _matching(folder, PICKLES)
    if pickled:
        raise _unusable(f"{folder}: {_refused(pickled)}")
    raise _unusable(f"{folder}: has no weights ({WEIGHTS}, or {INDEX} with the files that it names)")


def _refused(pickled: list[str]) -> str:
    return (
        f"the only weights are pickled ({', '.join(pickled[:3])}), and reading a pickle can run any code in it. "
        "If you trust them, convert them to safetensors: load the folder with transformers or peft and save_pretrained"
    )


def _base_shapes(folder: Path) -> dict[str, Shape]:
    found: dict[str, Shape] = {}
    for path in _weights(folder):
        found |= shapes(path)
    return found


def _check_fit(adapter: Mapping[str, Shape], base: Mapping[str, Shape], *, transposed: bool) -> None:
    lora = {name.removeprefix(_LORA_PREFIX): shape for name, shape in adapter.items()}
    modules = sorted(name.removesuffix(".lora_A.weight") for name in lora if name.endswith(".lora_A.weight"))
    if not modules:
        raise _unusable_adapter("the adapter has no LoRA weights (….lora_A.weight); only LoRA adapters are supported")
    for module in modules:
        a, b = lora[f"{module}.lora_A.weight"], lora.get(f"{module}.lora_B.weight")
        weight = _weight_of(module, base)
        if weight is None:
            raise _does_not_fit(
                f"{module}: the adapter has weights for it (lora_A {list(a)}), the model has no such module"
            )
        if b is None:
            raise _unusable_adapter(f"{module}: the adapter has lora_A but no lora_B; the file is incomplete")
        if len(weight) != 2 or len(a) != 2 or len(b) != 2:
            continue
        outputs, inputs = reversed(weight) if transposed else weight
        for name, shape, wanted in (("lora_A", a, (a[0], inputs)), ("lora_B", b, (outputs, a[0]))):
            if shape != wanted:
                raise _does_not_fit(f"{module}: the adapter's {name} is {list(shape)}, the model needs {list(wanted)}")


def _weight_of(module: str, base: Mapping[str, Shape]) -> Shape | None:
    """Shape of a module's weight; checkpoints may leave out leading parts of the names that modules have in memory."""
    parts = module.split(".")
    names = (".".join([*parts[start:], "weight"]) for start in range(len(parts)))
    return next((base[name] for name in names if name in base), None)


def _adapter_settings(folder: Path) -> dict[str, Any]:
    """Content of `adapter_config.json`; lists whose order means nothing are sorted, the model's place is left out."""
    path = folder / ADAPTER_SETTINGS
    if not path.is_file():
        raise _unusable_adapter(
            f"{folder}: has no {ADAPTER_SETTINGS}; model.adapterURI must name a PEFT adapter folder"
        )
    settings = dict(_json_object(path))
    if settings.get("peft_type") != "LORA":
        raise _unusable_adapter(f"{path}: peft_type is {settings.get('peft_type')!r}; only LORA is supported")
    for name in ("target_modules", "modules_to_save"):
        if isinstance(settings.get(name), list):
            settings[name] = sorted(settings[name])
    return settings | {"base_model_name_or_path": None}


def _json_object(path: Path) -> Mapping[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise _unusable(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise _unusable(f"{path}: must hold a JSON object")
    return value


def _matching(folder: Path, patterns: tuple[str, ...]) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(p.name for p in folder.iterdir() if any(fnmatchcase(p.name, pattern) for pattern in patterns))


def _unusable(message: str) -> StageFailed:
    return StageFailed("ModelUnusable", message)


def _unusable_adapter(message: str) -> StageFailed:
    return StageFailed("AdapterUnusable", message)


def _does_not_fit(message: str) -> StageFailed:
    return StageFailed("AdapterDoesNotFit", f"{message}; it was trained on another model")
