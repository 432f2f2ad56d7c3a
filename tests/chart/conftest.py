"""Both versions of Helm."""

import os
from pathlib import Path

import pytest
from charts import Helm
from tools.build import Unavailable, binary


@pytest.fixture(scope="session")
def helm3(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    return Helm(_program("helm"), tmp_path_factory.mktemp("helm3"))


@pytest.fixture(scope="session")
def helm4(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    return Helm(_program("helm4"), tmp_path_factory.mktemp("helm4"))


def _program(tool: str) -> Path:
    try:
        return binary(tool)
    except Unavailable as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error))
        pytest.skip(str(error))
