"""Vectors of the published code, from the folder that EVOLUTION_PARITY_DIR names."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_run import QUICKSTART

from evolution_trainer.model import ModelSession

Vectors = Callable[[str], dict[str, Any]]


@pytest.fixture(scope="session")
def folder() -> Path:
    """Where the vectors lie."""
    found = Path(os.environ.get("EVOLUTION_PARITY_DIR", Path(__file__).parents[3] / "shared" / "parity"))
    if not found.is_dir():
        pytest.skip(f"no vectors of the published code: {found} (EVOLUTION_PARITY_DIR) does not exist")
    return found


@pytest.fixture(scope="session")
def vectors(folder: Path) -> Vectors:
    """The vectors in the file of that name."""

    def read(name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((folder / f"{name}.json").read_bytes())
        return found

    return read


@pytest.fixture(scope="session")
def parity(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelSession:
    """The model that the vectors were computed with."""
    return ModelSession(str(folder / "model"), tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> ModelSession:
    """The quickstart's model, for what holds without vectors."""
    return ModelSession(str(QUICKSTART / "model"), tmp_path_factory.mktemp("cache"))
