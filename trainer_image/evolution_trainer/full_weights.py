"""All weights of a model, trained: a folder with every parameter, and the base model with them in place of its own."""

import copy
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from evolution.plan.stage import canonical_json
from evolution_trainer.base_model import precision, quiet
from evolution_trainer.failure import StageFailed
from evolution_trainer.model import ModelSession
from evolution_trainer.model_files import FULL_SETTINGS, WEIGHTS, settings_files


def save(model: Any, folder: Path, session: ModelSession) -> None:
    """Write a whole model: every parameter of `model`, once where modules share it, in the precision in which models
    are loaded; the settings and the tokenizer of the session's base model; and a note with the digest of its listing.
    """
    folder.mkdir()
    (folder / FULL_SETTINGS).write_bytes(canonical_json({"variant": "Full", "base": session.digest}))
    for file in settings_files(session.folder):
        shutil.copyfile(file, folder / file.name)
    weights = {name: parameter.detach().to("cpu", precision(model.device)) for name, parameter in _parameters(model)}
    save_file({name: weight.contiguous() for name, weight in weights.items()}, folder / WEIGHTS, {"format": "pt"})


@contextmanager
def swapped_in(base: Any, folder: Path) -> Iterator[Any]:
    """`base` with the weights in `folder` for the length of a `with` block; its own wait in host memory.

    Raises:
        StageFailed: AdapterDoesNotFit, naming the parameter and both shapes.
    """
    weights = _read(base, folder)
    with _own_kept(base):
        for name, parameter in _parameters(base):
            parameter.data = weights.pop(name).to(parameter.device, precision(base.device))
        yield base


@contextmanager
def trainable(base: Any, folder: Path | None) -> Iterator[Any]:
    """`base` with all weights trainable, from those in `folder` (None: its own), for the length of a `with` block.

    They are in fp32: steps of a usual size are lost in the rounding of bf16.
    """
    weights = _read(base, folder) if folder else {}
    with _own_kept(base):
        for name, parameter in _parameters(base):
            parameter.data = weights.pop(name, parameter.data).to(base.device, torch.float32, copy=True)
            parameter.requires_grad_(True)
        # A trainer wraps the forward of what it trains, for good; of a shallow copy, that is none of the base's.
        yield copy.copy(base)


@contextmanager
def _own_kept(base: Any) -> Iterator[None]:
    device = base.device
    own = {name: parameter.data.cpu() for name, parameter in _parameters(base)}
    try:
        yield
    finally:
        for name, parameter in _parameters(base):
            parameter.grad = None
            parameter.data = own.pop(name).to(device)
        quiet(base)


def _parameters(model: Any) -> list[tuple[str, Any]]:
    """Every parameter once, by name: of tied ones the first."""
    return sorted(model.named_parameters(), key=lambda named: named[0])


def _read(base: Any, folder: Path) -> dict[str, torch.Tensor]:
    try:
        weights = load_file(folder / WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:
        raise StageFailed("AdapterDoesNotFit", f"{folder}: the weights cannot be read: {error}") from error
    wanted = {name: tuple(parameter.shape) for name, parameter in _parameters(base)}
    found = {name: tuple(weight.shape) for name, weight in weights.items()}
    for name in sorted({*wanted, *found}):
        if wanted.get(name) != found.get(name):
            raise StageFailed(
                "AdapterDoesNotFit",
                f"{name}: the trained weights have shape {_shown(found.get(name))}, the model needs "
                f"{_shown(wanted.get(name))}; they were trained on another model",
            )
    return weights


def _shown(shape: tuple[int, ...] | None) -> str:
    return "none" if shape is None else str(list(shape))
