"""A worker imports what its stage needs, and nothing else: that is most of what starting one costs."""

import subprocess
import sys

import pytest
from small_run import QUICKSTART

GENERATE = f"""
import sys
from pathlib import Path
from evolution_trainer.model import ModelSession
session = ModelSession({str(QUICKSTART / "model")!r}, Path("unused"))
session.base
from evolution_trainer.transformers_engine import TransformersEngine
engine = TransformersEngine(session, session.base)
engine.generate([session.chat.prompt("What?")], [1], temperature=1.0, top_p=0.9, max_tokens=4)
print(*sorted(sys.modules))
"""


def imported(program: str) -> set[str]:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_a_worker_without_an_order_imports_no_large_library() -> None:
    modules = imported("import sys, evolution_trainer.worker, evolution_trainer.publish; print(*sys.modules)")
    assert not modules & {"torch", "transformers", "peft", "accelerate"}


@pytest.mark.slow
def test_generating_with_the_base_model_needs_neither_peft_nor_a_trainer() -> None:
    modules = imported(GENERATE)
    assert "transformers" in modules
    assert not modules & {"peft", "transformers.trainer"}
