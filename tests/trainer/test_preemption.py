"""What a signal does to a worker, depending on where it falls."""

import os
import subprocess
import sys
import time

import pytest

HEAD = """
import os, signal, sys, time
from evolution_trainer import preemption
from evolution_trainer.preemption import Preempted, deferred, raise_on_signals

def give_up(code=44, reason="Preempted", message="stopped by a signal"):
    print("given up", reason, flush=True)
    os._exit(code)

raise_on_signals(give_up)
def come(): signal.raise_signal(signal.SIGTERM)
"""


def said(program: str, **environment: str) -> tuple[int, list[str]]:
    """Exit code of a process with these lines, and what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", HEAD + program],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout.splitlines()


def test_where_nothing_is_being_saved_it_is_raised_at_once() -> None:
    assert said("""
try:
    come()
    print("not reached")
except Preempted:
    print("raised")
""") == (0, ["raised"])


def test_what_is_being_saved_is_saved_to_its_end_and_a_long_block_is_told() -> None:
    assert said("""
try:
    with deferred() as asked:
        with deferred():
            come()
        print("asked", asked())
    print("not reached")
except Preempted:
    print("raised")
    with deferred():
        print("saved")
    print("not raised again")
""") == (0, ["asked True", "raised", "saved", "not raised again"])


def test_it_is_raised_in_place_of_the_error_with_which_a_block_ends() -> None:
    assert said("""
try:
    with deferred():
        come()
        raise ValueError
except Preempted as raised:
    print(type(raised.__context__).__name__)
""") == (0, ["ValueError"])


def test_saving_may_take_longer_than_the_patience_with_a_computation() -> None:
    code, lines = said("""
try:
    with deferred():
        come()
        time.sleep(2 * preemption.PATIENCE)
        print("saved", flush=True)
except Preempted:
    sys.exit(44)
""")
    assert (code, lines) == (44, ["saved"])


@pytest.mark.parametrize(("grace", "least", "most"), [("2", 1.4, 12.0)])
def test_but_not_longer_than_the_grace(grace: str, least: float, most: float) -> None:
    began = time.monotonic()
    code, lines = said(
        """
with deferred():
    come()
    print("saving", flush=True)
    time.sleep(60)
""",
        EVOLUTION_GRACE_SECONDS=grace,
    )
    assert (code, lines) == (44, ["saving", "given up Preempted"])
    assert least < time.monotonic() - began < most


def test_a_thread_that_knows_the_main_thread_to_be_stuck_ends_the_process_with_its_own_reason() -> None:
    assert said("""
import threading
threading.Thread(target=preemption.end_process, args=(137, "ProcessLost", "process 2 was killed")).start()
time.sleep(60)
""") == (137, ["given up ProcessLost"])
