"""Peak memory of a worker does not grow with the number of rows."""

from pathlib import Path

import pytest
from many_rows import STAGES, took

FEW = {"prepare": 200, "generate": 300, "score": 1100, "evaluate": 1100}
"""Rows of a few windows: what is in memory at once is full."""
TIMES = {"prepare": 20, "generate": 4, "score": 4, "evaluate": 4}
TOLERANCE = 1.05


@pytest.mark.slow
@pytest.mark.parametrize("name", STAGES)
def test_many_times_the_rows_take_no_more_memory(name: str, tmp_path: Path) -> None:
    few = took(tmp_path / "few", STAGES[name], FEW[name]).megabytes
    many = took(tmp_path / "many", STAGES[name], TIMES[name] * FEW[name]).megabytes
    assert many <= few * TOLERANCE, f"{few:.0f} MB for {FEW[name]} rows, {many:.0f} MB for {TIMES[name]} times as many"
