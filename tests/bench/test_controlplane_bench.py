"""The benchmark runs; its figures are not judged."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]

pytestmark = [pytest.mark.controlplane, pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.mark.usefixtures("control_plane")  # only to skip, or fail, where its programs cannot be had
def test_the_quick_form_gives_figures() -> None:
    command = [sys.executable, "-m", "bench.controlplane", "chains", "--quick"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(TESTS)}
    )
    assert done.returncode == 0, done.stderr
    (figures,) = json.loads(done.stdout)["chains"]["systems"]
    assert figures["ended"] == figures["runs"] == 4
    assert figures["gap"]["count"] == 12
    assert figures["requests"]["create jobs"] == 16
