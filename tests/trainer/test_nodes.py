"""Workers that train together, each on its node: the same result as one, and what is lost with one of them."""

import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from controlplane.waiting import eventually
from small_run import QUICKSTART
from stages import TRAIN, Bench, pair
from worker_process import RUN, Said, Workshop, order_stage

from evolution.plan.order import Compute, Order
from evolution.plan.stage import Kind, canonical_json
from evolution.plan.tally import Spending, Tally
from evolution.plan.worker import Committed, ExitCode, OrderDone, Progress, Started, parse_event
from evolution_trainer import nodes, pod, preemption, pulse, train
from evolution_trainer.failure import StageFailed
from evolution_trainer.fit import processes
from evolution_trainer.meeting import OUT_OF_MEMORY, SILENCE, connected
from evolution_trainer.nodes import Follower, Leader, Nodes, StageDone, Terms
from evolution_trainer.peers import peer_lost
from evolution_trainer.pod import Place
from evolution_trainer.pulse import Pulse
from evolution_trainer.timing import Clock

STEPS = 40
PAIRS = [pair(i, answer="seven " * (i % 4 + 1)) for i in range(14)]
TERMS = Terms(processes=1, rows_at_once=4, checkpoint="000000000003-x.json")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@dataclass
class Gang:
    """Two workers, as the pods of a JobSet are started, and what they say."""

    shop: Workshop
    compute: Compute = field(default_factory=lambda: Compute(nodes=2, processes=1, checkpoint_seconds=0.0))
    steps: int = STEPS
    running: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    @property
    def order(self) -> Order:
        rows = self.shop.folder / "rows"
        rows.write_bytes(b"".join(canonical_json(row) + b"\n" for row in PAIRS))
        pairs = self.shop.artifacts.put_file(rows).digest
        # Dropout: the random numbers of each process matter.
        parameters = {**TRAIN, "dropout": 0.1, "length": {"steps": self.steps}}
        order = self.shop.order(order_stage(Kind.TRAIN, parameters, pairs=pairs))
        return order.model_copy(update={"compute": self.compute})

    def start(self) -> None:
        leader = f"localhost:{free_port()}"
        self.running = [self.node(index, leader) for index in range(2)]

    def node(self, index: int, leader: str) -> "subprocess.Popen[bytes]":
        return self.shop.start(
            EVOLUTION_ORDER=self.order.to_json().decode(),
            EVOLUTION_NODE_INDEX=str(index),
            EVOLUTION_LEADER=leader,
            EVOLUTION_CACHE=str(self.shop.folder / f"cache-{index}"),
            OMP_NUM_THREADS="1",
            TQDM_DISABLE="1",
        )

    def said(self) -> list[Said]:
        """Of both, by node, when they have ended."""
        found = []
        for process in self.running:
            out, errors = process.communicate(timeout=120)
            found.append(Said([parse_event(line) for line in out.splitlines()], process.returncode, errors.decode()))
        return found

    def after_a_step_more(self) -> None:
        """Wait until they have trained together, and saved it."""
        before = self.step
        eventually(lambda: self.step > before, "a checkpoint of the two")

    @property
    def step(self) -> int:
        """That of the newest checkpoint."""
        listed = (found.key.rpartition("/")[2] for found in self.shop.artifacts.store.list(f"runs/{RUN}/checkpoints/"))
        return max((int(name[:12]) for name in listed if name.endswith(".json")), default=0)


@pytest.fixture
def gang(tmp_path: Path) -> Iterator[Gang]:
    gang = Gang(Workshop(tmp_path, QUICKSTART / "model"))
    yield gang
    for process in gang.running:
        process.kill()
        process.communicate()


def last_tally(said: Said) -> Tally:
    last = said.events[-1]
    assert isinstance(last, OrderDone)
    assert last.tally
    return last.tally


@pytest.mark.slow
@pytest.mark.ship
def test_two_nodes_of_which_each_is_lost_once_end_with_what_one_worker_of_two_processes_makes(
    gang: Gang, tmp_path: Path
) -> None:
    for lost in (1, 0):
        gang.start()
        gang.after_a_step_more()
        gang.running[lost].send_signal(signal.SIGKILL)
        said = gang.said()
        assert said[lost].code == -signal.SIGKILL
        other = said[1 - lost]
        assert (other.code, other.failed.reason) == (ExitCode.PREEMPTED, "PeerLost"), other.errors
        assert "Traceback" not in other.errors
        assert 0 < gang.step < STEPS
    saved = gang.step
    gang.start()
    leader, follower = gang.said()

    assert (leader.code, follower.code) == (0, 0), leader.errors + follower.errors
    [first] = [event for event in leader.events if isinstance(event, Progress) and event.phase == "steps"][:1]
    assert first.done >= saved, "they went on from the newest checkpoint"
    together = leader.committed["train"]
    (tmp_path / "alone").mkdir()
    alone = Gang(Workshop(tmp_path / "alone", QUICKSTART / "model"))
    one = alone.shop.pod(
        alone.order.model_copy(update={"compute": Compute(processes=2)}), OMP_NUM_THREADS="2"
    ).committed["train"]
    assert {name: output.digest for name, output in together.outputs.items()} == {
        name: output.digest for name, output in one.outputs.items()
    }
    assert list(gang.shop.artifacts.store.list(f"runs/{RUN}/checkpoints/")) == []

    assert not [event for event in follower.events if isinstance(event, Started | Committed | Progress)]
    mine, its = last_tally(follower).spent[Kind.TRAIN], last_tally(leader).spent[Kind.TRAIN]
    assert mine.productive > 0
    assert mine.outputs == Spending()
    assert its.trained_tokens == together.usage.tokens_in

    late = gang.node(1, f"localhost:{free_port()}")
    gang.running = [late]
    [said_late] = gang.said()
    assert (said_late.code, [type(event) for event in said_late.events]) == (0, [OrderDone]), said_late.errors


@pytest.mark.slow
def test_a_signal_to_one_node_saves_the_step_and_ends_both(gang: Gang) -> None:
    gang.compute, gang.steps = Compute(nodes=2, processes=1, checkpoint_seconds=3.0), 100_000
    gang.start()
    gang.after_a_step_more()
    before = gang.step
    gang.running[1].send_signal(signal.SIGTERM)
    leader, follower = gang.said()
    assert (leader.code, leader.failed.reason) == (ExitCode.PREEMPTED, "PeerLost"), leader.errors
    assert "the worker of another node was stopped" in leader.failed.message
    assert (follower.code, follower.failed.reason) == (ExitCode.PREEMPTED, "Preempted"), follower.errors
    assert gang.step > before, "the step after which they stopped is saved"
    for said in (leader, follower):
        assert said.failed.tally
        assert said.failed.tally.spent[Kind.TRAIN].saved > 0, "its work need not be done again"


def test_nodes_that_a_batch_cannot_be_divided_among_are_told_what_to_change(bench: Bench) -> None:
    stage = bench.stage({**TRAIN, "batchSize": 3}, pairs=bench.put(PAIRS))
    with pytest.raises(StageFailed, match=r"make it a multiple of 2, such as 4") as failure:
        train.run(replace(stage, compute=Compute(nodes=2)))
    assert (failure.value.reason, failure.value.code) == ("NodesCannotShare", ExitCode.BAD_SPEC)
    assert "training.batchSize is 3" in str(failure.value)


@pytest.mark.parametrize(("asked", "batch_size", "made"), [(1, 16, 1), (3, 16, 2), (8, 16, 8), (16, 16, 8), (4, 6, 3)])
def test_the_processes_of_both_nodes_get_the_same_share_of_a_batch(asked: int, batch_size: int, made: int) -> None:
    assert processes(Compute(nodes=2, processes=asked), batch_size) == made


@pytest.mark.parametrize(
    ("index", "leader", "expected"),
    [
        ("", "train-node-0-0.train:29500", "EVOLUTION_NODE_INDEX is '', but the order is for 2 nodes: 0 to 1"),
        ("2", "train-node-0-0.train:29500", "EVOLUTION_NODE_INDEX is '2'"),
        ("-1", "train-node-0-0.train:29500", "EVOLUTION_NODE_INDEX is '-1'"),
        ("1", "", "EVOLUTION_LEADER is '', but the order is for 2 nodes: host:port of node 0"),
        ("1", "train-node-0-0.train", "host:port of node 0 is expected"),
        ("1", "train-node-0-0.train:0", "host:port of node 0 is expected"),
    ],
)
def test_an_environment_that_does_not_tell_the_place_is_said(
    monkeypatch: pytest.MonkeyPatch, index: str, leader: str, expected: str
) -> None:
    monkeypatch.setenv("EVOLUTION_NODE_INDEX", index)
    monkeypatch.setenv("EVOLUTION_LEADER", leader)
    with pytest.raises(StageFailed, match=expected) as failure:
        pod.place(2)
    assert (failure.value.reason, failure.value.code) == ("OrderInvalid", ExitCode.BAD_SPEC)


def test_the_place_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVOLUTION_NODE_INDEX", "1")
    monkeypatch.setenv("EVOLUTION_LEADER", "train-node-0-0.train:29500")
    assert pod.place(2) == Place(1, 2, "train-node-0-0.train", 29500)


GLOO = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553]"
NCCL = "NCCL communicator was aborted on rank 1. Original reason for failure was:"


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (RuntimeError(f"{GLOO} Connection closed by peer [127.0.0.1]:13500. This is typically caused"), True),
        (RuntimeError(f"{GLOO} Read error [127.0.0.1]:10444: Connection reset by peer."), True),
        (RuntimeError("[gloo/gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 1800000ms for recv"), True),
        (dist.DistNetworkError("Failed to recv, got 0 bytes. Connection was likely closed."), True),
        (dist.DistStoreError("wait timeout after 1800000ms, keys: /attempt-1/0//cpu//0/1"), True),
        (dist.DistBackendError(f"{NCCL} ncclRemoteError: A call failed possibly due to a network error"), True),
        (dist.DistBackendError("Watchdog caught collective operation timeout: WorkNCCL(SeqNum=7)"), True),
        (dist.DistBackendError(f"{NCCL} CUDA error: an illegal memory access was encountered"), False),
        (dist.DistBackendError("NCCL error in: x.cpp:1, ncclInvalidUsage: Duplicate GPU detected"), False),
        (RuntimeError(f"{GLOO} op.preamble.length <= op.nbytes. 20 vs 16"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied (4x8 and 4x4)"), False),
        (RuntimeError("the download timed out"), False),
        (ConnectionResetError("Connection reset by peer"), False),
        (ValueError("Connection closed by peer"), False),
    ],
)
def test_only_the_loss_of_another_process_is_taken_for_it(error: Exception, lost: bool) -> None:
    assert peer_lost(error) is lost


@dataclass
class Two:
    """Both nodes in this process."""

    port: int = field(default_factory=free_port)
    manifest: bool = False
    told: list[tuple[str, int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.leader = Leader(self.place(0), lambda: self.manifest, Clock(), self._progress)
        self.follower = Follower(self.place(1), lambda: self.manifest, Clock())

    def place(self, node: int) -> Place:
        return Place(node, 2, "localhost", self.port)

    def _progress(self, phase: str, done: int, total: int, note: str = "") -> None:  # noqa: ARG002
        self.told.append((phase, done, total))

    def agree(self, terms: Terms = TERMS) -> tuple[Terms, Terms]:
        with ThreadPoolExecutor(1) as pool:
            led = pool.submit(self.leader.agree, lambda: terms)
            followed = self.follower.agree(never)
            return led.result(60), followed


def never() -> Terms:
    raise AssertionError("node 0 decides")


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> Two:
    monkeypatch.setattr(nodes, "PAUSE", 0.02)
    monkeypatch.setattr(nodes, "LOOK", 0.0)
    return Two()


CLOSED = RuntimeError(f"{GLOO} Connection closed by peer [127.0.0.1]:13500")
NO_MEMORY = RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")


def test_node_0_says_from_where_all_go_on_and_with_how_many_rows(two: Two) -> None:
    assert two.agree() == (TERMS, TERMS)
    assert two.told[-1] == ("nodes", 2, 2)


@pytest.mark.parametrize("short", ["leader", "follower"])
def test_where_one_node_runs_out_of_memory_all_try_again_with_less(two: Two, short: str) -> None:
    two.agree()
    here, there = (two.leader, two.follower) if short == "leader" else (two.follower, two.leader)
    here.meeting.store(SILENCE).add(OUT_OF_MEMORY, 1)
    here.see_to(NO_MEMORY)
    there.see_to(CLOSED)
    less = TERMS.model_copy(update={"rows_at_once": 2})
    assert two.agree(less) == (less, less)
    with pytest.raises(StageFailed, match="another is lost") as failure:
        there.see_to(CLOSED)
    assert (failure.value.reason, failure.value.code) == ("PeerLost", ExitCode.PREEMPTED), (
        "it told of the attempt before"
    )


def test_a_defect_of_this_node_stays_one(two: Two) -> None:
    two.agree()
    defect = RuntimeError("mat1 and mat2 shapes cannot be multiplied (4x8 and 4x4)")
    for each in (two.leader, two.follower):
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            each.see_to(defect)


def test_a_node_that_was_started_anew_amid_an_attempt_waits_for_the_next(two: Two) -> None:
    two.agree()
    two.follower = Follower(two.place(1), lambda: two.manifest, Clock())
    with ThreadPoolExecutor(1) as pool:
        followed = pool.submit(two.follower.agree, never)
        eventually(lambda: len(two.leader._store.get(Pulse.key(1))) and two.follower._found)
        assert not followed.done()
        again = TERMS.model_copy(update={"rows_at_once": 1})
        two.leader.agree(lambda: again)
        assert followed.result(60) == again


def test_node_0_stops_waiting_for_others_once_the_stage_is_done(two: Two) -> None:
    two.manifest = True
    with pytest.raises(StageDone):
        two.leader.agree(lambda: TERMS)


def test_another_node_stops_looking_for_node_0_once_the_stage_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "LOOK", 0.0)
    lonely = Follower(Place(1, 2, "train-node-0-0.no-such-service.invalid", 29500), lambda: True, Clock())
    with pytest.raises(StageDone):
        lonely.agree(never)


@pytest.mark.parametrize("done", [True, False])
def test_node_0_that_leaves_is_lost_unless_the_stage_is_done(two: Two, done: bool) -> None:
    two.agree()
    two.manifest = done
    two.leader._held = None  # type: ignore[assignment]  # the store ends with it
    if done:
        two.follower.until_committed()
    else:
        with pytest.raises(StageFailed, match="node 0 does not answer any more") as failure:
            two.follower.until_committed()
        assert (failure.value.reason, failure.value.code) == ("PeerLost", ExitCode.PREEMPTED)


def test_all_are_told_once_the_stage_is_committed(two: Two) -> None:
    two.agree()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(two.follower.until_committed)
        assert not waiting.done()
        two.leader.committed()
        waiting.result(60)


@pytest.mark.parametrize("waits", ["leader", "follower"])
def test_who_waits_for_a_node_in_vain_says_where_to_look(two: Two, monkeypatch: pytest.MonkeyPatch, waits: str) -> None:
    monkeypatch.setattr(nodes, "MISSING", 0.0)
    where = Place(1, 2, "train-node-0-0.no-such-service.invalid", 29500)
    one: Nodes = two.leader if waits == "leader" else Follower(where, lambda: False, Clock())
    with pytest.raises(StageFailed, match="headless Service") as failure:
        one.agree(lambda: TERMS)
    assert (failure.value.reason, failure.value.code) == ("NodesMissing", 1)
    expected = "node 1 has not come" if waits == "leader" else "is not at train-node-0-0.no-such-service.invalid:29500"
    assert expected in str(failure.value)


def test_a_port_that_is_taken_is_said(two: Two) -> None:
    with pytest.raises(StageFailed, match=f"node 0 cannot listen on port {two.port}"):
        Leader(two.place(0), lambda: False, Clock(), two._progress)


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str, str]]:
    """What processes were ended with by their pulse, which beats fast."""
    found: list[tuple[int, str, str]] = []
    monkeypatch.setattr(preemption, "end_process", lambda *how: found.append(how))
    for name, seconds in {"BEAT": 0.02, "LOST": 0.3, "SORROW": 0.05}.items():
        monkeypatch.setattr(pulse, name, seconds)
    return found


Ended = list[tuple[int, str, str]]


def test_nodes_that_give_signs_of_life_are_let_be(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse, "LOST", 0.0)
    two.agree()
    leader, follower = two.leader.pulse(), two.follower.pulse()
    for _ in range(3):
        assert follower.beat() == ""
        assert leader.beat() == ""
    assert "node 1 has given no sign of life" in leader.beat()


def test_node_0_ends_when_another_gives_no_sign_of_life_any_more(two: Two, ended: Ended) -> None:
    two.agree()
    with two.leader.pulse():
        with two.follower.pulse():
            pass
        [(code, reason, message)] = eventually(lambda: ended)
    assert (code, reason) == (ExitCode.PREEMPTED, "PeerLost")
    assert "node 1 has given no sign of life for" in message


def test_node_0_ends_when_another_was_started_anew(two: Two, ended: Ended) -> None:
    two.agree()
    with two.leader.pulse(), two.follower.pulse():
        connected("localhost", two.port, SILENCE).set(Pulse.key(1), "another")
        [(_, reason, message)] = eventually(lambda: ended)
    assert reason == "PeerLost"
    assert "node 1 was started anew amid the training" in message


def test_another_node_ends_when_node_0_has_gone(two: Two, ended: Ended) -> None:
    two.agree()
    with two.follower.pulse():
        two.leader._held = None  # type: ignore[assignment]
        [(_, reason, message)] = eventually(lambda: ended)
    assert reason == "PeerLost"
    assert "node 0 does not answer any more" in message


class Deaf:
    """A store that does not answer: the power of node 0 has failed."""

    def __init__(self) -> None:
        self.over = threading.Event()

    def add(self, _key: str, _amount: int) -> int:
        self.over.wait(60)
        return 0


def test_another_node_ends_when_node_0_does_not_answer(ended: Ended) -> None:
    store: Any = Deaf()
    with Pulse(store, "me", ()):
        [(_, reason, message)] = eventually(lambda: ended)
        store.over.set()
    assert reason == "PeerLost"
    assert "node 0 has not answered for" in message
