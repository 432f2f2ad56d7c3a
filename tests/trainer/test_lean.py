"""What a worker does not need is not imported, and is there all the same for whoever asks for it."""

import subprocess
import sys

from small_run import QUICKSTART

HEAVY = ("sympy", "torch._dynamo", "torch.distributed.tensor", "torch.fx.experimental.symbolic_shapes")

WRITE = f"""
import sys
from pathlib import Path
from evolution_trainer.lean import StandIn
from evolution_trainer.model import ModelSession

def heavy():
    return [name for name in {HEAVY} if not isinstance(sys.modules.get(name), StandIn | None)]

session = ModelSession({str(QUICKSTART / "model")!r}, Path("unused"))
session.base
from evolution_trainer.engine import Engine
engine = Engine(session, session.base)
engine.generate([session.chat.prompt("What?")], [1], temperature=1.0, top_p=0.9, max_tokens=4)
assert heavy() == [], heavy()
assert "peft" not in sys.modules
"""

ASK = """
from evolution_trainer.lean import SHAPES, OF_NUMBERS
import importlib
import torch
numbers = {"sym_eq": ([2, 3], [2, 3]), "sym_and": (True, False), "sym_or": (False, True), "is_nested_int": (3,),
           "has_guarding_hint": (3,), "guarding_hint_or_throw": (3,)}
stood_in = sys.modules[SHAPES]
lean = {name: getattr(stood_in, name)(*numbers.get(name, (True,))) for name in OF_NUMBERS}
assert isinstance(stood_in, StandIn)
from torch.distributed.tensor import Shard
from torch.distributed.tensor.placement_types import Replicate
assert not any(isinstance(module, StandIn) for module in sys.modules.values())
real = importlib.import_module(SHAPES)
assert lean == {name: getattr(real, name)(*numbers.get(name, (True,))) for name in OF_NUMBERS}
import sympy
assert sympy.Symbol("x") - sympy.Symbol("x") == 0
assert torch.compile(lambda x: x + 1, backend="eager")(torch.ones(1)).item() == 2
"""


def test_generating_needs_neither_compiler_nor_symbolic_algebra_and_what_was_left_out_comes_when_it_is_asked_for() -> (
    None
):
    done = subprocess.run([sys.executable, "-c", WRITE + ASK], capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
