"""An adapter for the engines that take LoRA adapters and nothing else."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from evolution.api.runtime import EngineName
from evolution.plan.stage import canonical_json, sha256
from evolution.plan.worker import ExitCode
from evolution_trainer.failure import StageFailed
from evolution_trainer.model_files import ADAPTER_SETTINGS


@dataclass(frozen=True)
class ServedAdapter:
    name: str
    """Tells the content: engines keep computed prefixes by name, and another adapter must not find them."""
    path: Path
    rank: int


def served_adapter(folder: Path, engine: EngineName) -> ServedAdapter:
    """The PEFT adapter in `folder`.

    Raises:
        StageFailed: EngineCannotServe (bad spec), if it is more than LoRA matrices.
    """
    settings_file = folder / ADAPTER_SETTINGS
    settings = json.loads(settings_file.read_bytes()) if settings_file.exists() else None
    if settings is None:
        _refuse(engine, "what was trained with training.variant Full is a whole model, not a LoRA adapter")
    if settings.get("use_dora"):
        _refuse(engine, "the adapter was trained with training.variant DoRA, which it does not know")
    if modules := settings.get("modules_to_save"):
        _refuse(engine, f"the adapter replaces whole modules (modules_to_save: {', '.join(modules)})")
    ranks = (settings["r"], *(settings.get("rank_pattern") or {}).values())
    return ServedAdapter(f"evolution-{_digest(folder)[:16]}", folder.absolute(), max(ranks))


def _refuse(engine: EngineName, why: str) -> NoReturn:
    raise StageFailed(
        "EngineCannotServe",
        f"engine {engine}: {why}; use engine Transformers, or training.variant LoRA or RSLoRA from a plain model",
        ExitCode.BAD_SPEC,
    )


def _digest(folder: Path) -> str:
    """Of names and contents of the folder's files."""
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            files[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return sha256(canonical_json(files))
