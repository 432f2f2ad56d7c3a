"""Fixtures for tests of documents, evaluation items and the folders of models and adapters."""

from pathlib import Path

import pytest
from trainer_data.preparing import Preparation


@pytest.fixture
def preparation(tmp_path: Path) -> Preparation:
    return Preparation(tmp_path / "work")
