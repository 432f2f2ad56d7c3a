"""Child processes do not outlive the process that started them, whatever ends it."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from controlplane.waiting import eventually

TESTS = Path(__file__).parents[1]
PARENT = """
import time
from controlplane.processes import start_child
print(start_child(["sleep", "600"]).pid, flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills the children of a killed process")
def test_the_child_of_a_killed_process_is_killed() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], cwd=TESTS, stdout=subprocess.PIPE)
    with parent:
        assert parent.stdout
        child = psutil.Process(int(parent.stdout.readline()))
        eventually(lambda: child.name() == "sleep", "the command in place of what binds it to its parent")
        parent.kill()
    eventually(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, "the end of the child")
