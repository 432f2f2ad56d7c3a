"""Several processes that train together: what happens to one of them happens to the stage."""

import multiprocessing
import os
import signal
import subprocess
import threading
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from small_run import QUICKSTART
from stages import TRAIN, Bench, pair
from torch.distributed.distributed_c10d import _set_pg_timeout
from worker_process import Workshop, order_stage

from evolution.plan.order import Compute
from evolution.plan.stage import Kind, canonical_json
from evolution.plan.worker import Failed, Progress, parse_event
from evolution_trainer import ranks, train
from evolution_trainer.failure import StageFailed
from evolution_trainer.fit import processes
from evolution_trainer.meeting import FileMeeting

PAIRS = [pair(i) for i in range(12)]


@pytest.mark.parametrize(
    ("asked", "batch_size", "made"), [(0, 16, 1), (1, 16, 1), (2, 16, 2), (3, 16, 2), (8, 4, 4), (5, 7, 1), (2, 1, 1)]
)
def test_every_process_gets_the_same_share_of_a_batch(asked: int, batch_size: int, made: int) -> None:
    assert processes(Compute(processes=asked), batch_size) == made


def test_processes_that_a_batch_cannot_be_divided_among_are_a_warning(bench: Bench) -> None:
    stage = replace(bench.stage({**TRAIN, "batchSize": 1}, pairs=bench.put(PAIRS)), compute=Compute(processes=2))
    assert any("1 of 2 processes train: training.batchSize 1" in warning for warning in train.run(stage).warnings)


def interrupted(bench: Bench, what: int) -> StageFailed:
    """What a training of two says when one gets that signal after the first step."""
    stage = bench.stage({**TRAIN, "length": {"steps": 50}}, pairs=bench.put(PAIRS))

    def progress(phase: str, done: int, total: int, note: str = "") -> None:  # noqa: ARG001
        if done == 1:
            [other] = multiprocessing.active_children()
            assert other.pid
            _set_pg_timeout(timedelta(seconds=3))  # in place of half an hour
            os.kill(other.pid, what)

    scratch = bench.folder / "a folder, größer"
    scratch.mkdir()
    with pytest.raises(StageFailed) as failure:
        train.run(replace(stage, compute=Compute(processes=2), progress=progress, scratch=scratch))
    assert multiprocessing.active_children() == []
    assert "RANK" not in os.environ
    return failure.value


class Other:
    """A process that ends while it is waited for, and who asked how it ended."""

    pid = 1

    def __init__(self) -> None:
        self.sentinel, self._end = os.pipe()
        self.asked = threading.Event()
        self._waited_for = False

    def start(self) -> None: ...

    def kill(self) -> None: ...

    def join(self, timeout: float | None = None) -> None:  # noqa: ARG002
        self._waited_for = True
        os.write(self._end, b".")
        self.asked.wait(0.3)

    @property
    def exitcode(self) -> int | None:
        if self._waited_for and threading.current_thread() is not threading.main_thread():
            self.asked.set()
        return 0 if self._waited_for else None


def test_only_who_waits_for_a_process_asks_how_it_ended(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Other()
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: SimpleNamespace(Process=lambda **_: other))
    monkeypatch.setattr(ranks, "_group", lambda *_: nullcontext())
    with ranks.Ranks(bench.session, plan_of_two(), FileMeeting(bench.folder / "meeting", 2)) as both:
        both.ended()
    assert not other.asked.is_set(), "of two that ask, the system tells one nothing: the process would seem lost"


def plan_of_two(nodes: int = 1) -> Any:
    """For two processes of this node."""
    return SimpleNamespace(node=0, nodes=nodes, processes=2 * nodes, processes_here=2)


class Ended:
    """A process whose files are closed already, and of which the system tells the end to those only who wait for it."""

    pid = 1

    def __init__(self, code: int) -> None:
        self.sentinel, end = os.pipe()
        os.close(end)
        self.exitcode: int | None = None
        self._code = code

    def start(self) -> None: ...

    def kill(self) -> None: ...

    def join(self, timeout: float | None = None) -> None:  # noqa: ARG002
        self.exitcode = self._code


def test_one_whose_connection_breaks_a_moment_before_its_end_is_named_all_the_same(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StageFailed, match="was killed by signal 9"):
        losing(-signal.SIGKILL, bench, monkeypatch, nodes=1)


def test_one_that_lost_another_on_another_node_is_not_the_one_to_blame(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RuntimeError, match="Connection closed by peer"):
        losing(ranks.PEER_LOST, bench, monkeypatch, nodes=2)


def losing(code: int, bench: Bench, monkeypatch: pytest.MonkeyPatch, nodes: int) -> None:
    """The connection breaks, and the other process of this node has ended with that code."""
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: SimpleNamespace(Process=lambda **_: Ended(code)))
    monkeypatch.setattr(ranks, "_group", lambda *_: nullcontext())
    with ranks.Ranks(bench.session, plan_of_two(nodes), FileMeeting(bench.folder / "meeting", 2)):
        raise RuntimeError("Connection closed by peer")


@pytest.mark.slow
def test_one_that_dies_ends_the_stage_and_is_named_with_its_signal(bench: Bench) -> None:
    failure = interrupted(bench, signal.SIGKILL)
    assert (failure.reason, failure.code) == ("ProcessLost", 137)
    assert "process 2 of the 2 that train together was killed by signal 9" in str(failure)


@pytest.mark.slow
def test_one_that_hangs_ends_the_stage(bench: Bench) -> None:
    failure = interrupted(bench, signal.SIGSTOP)
    assert (failure.reason, failure.code) == ("ProcessLost", 1)
    assert "one of the 2 processes that train together does not answer any more" in str(failure)


@pytest.mark.slow
def test_a_signal_to_the_worker_saves_the_step_and_ends_them_all(tmp_path: Any) -> None:
    shop = Workshop(tmp_path, QUICKSTART / "model")
    (tmp_path / "rows").write_bytes(b"".join(canonical_json(row) + b"\n" for row in PAIRS))
    pairs = shop.artifacts.put_file(tmp_path / "rows").digest
    order = shop.order(order_stage(Kind.TRAIN, {**TRAIN, "length": {"steps": 100_000}}, pairs=pairs))
    order = order.model_copy(update={"compute": Compute(processes=2, checkpoint_seconds=3600.0)})
    process = shop.start("-")
    assert process.stdin
    assert process.stdout
    process.stdin.write(order.to_json())
    process.stdin.close()
    events, others = [], []
    for line in process.stdout:
        events.append(parse_event(line))
        if isinstance(events[-1], Progress) and events[-1].phase == "steps" and not others:
            others = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 44, read(process)
    assert isinstance(events[-1], Failed)
    assert events[-1].reason == "Preempted"
    saved = [found.key for found in shop.artifacts.store.list("runs/")]
    assert len([key for key in saved if "/training/" in key and key.endswith(".json")]) == 1
    assert len(others) >= 1
    psutil.wait_procs(others, timeout=30)
    # Nobody may collect the orphans of a container; they are no more, all the same.
    assert not [other for other in others if other.is_running() and other.status() != psutil.STATUS_ZOMBIE]


def read(process: "subprocess.Popen[bytes]") -> str:
    assert process.stderr
    return process.stderr.read().decode()
