"""A worker in a pod: its order in the environment, a termination message, a store that may be away for a while."""

import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import fields
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from small_run import QUICKSTART
from stages import EVALUATE, GENERATE, TRAIN, pair
from worker_process import RUN, Workshop, order_stage

from evolution.api.run import Gate
from evolution.plan.gate import Verdict
from evolution.plan.order import Compute, Order, OrderGate, OrderStage
from evolution.plan.stage import Kind, canonical_json, fingerprint
from evolution.plan.tally import Spending, Tally
from evolution.plan.worker import Committed, Failed, ModelLoaded, OrderDone, Progress, Started, parse_event
from evolution.store import keys
from evolution.store.base import StoreUnavailable
from evolution.store.open import open_store
from evolution.store.parts import Parts
from evolution_trainer.pod import MESSAGE_BYTES, shortened, wait_for

MODEL = QUICKSTART / "model"
PREPARE = order_stage(Kind.PREPARE, {"source": "Model", "uri": MODEL.as_uri(), "revision": ""}, "prepare-model")
SHARDS = 3
WAY_OUT = 3000
"""Milliseconds that ending a process, and noticing it, may take on a busy machine."""


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path, MODEL)


def put(shop: Workshop, rows: list[dict[str, str]]) -> str:
    path = shop.folder / "rows.jsonl"
    path.write_bytes(b"".join(canonical_json(row) + b"\n" for row in rows))
    return shop.artifacts.put_file(path).digest


def generating(shop: Workshop) -> OrderStage:
    files = sorted((QUICKSTART / "documents").iterdir())[:5]
    documents = [
        {"id": f"{n:016x}", "text": file.read_text(encoding="utf-8").strip(), "language": "en"}
        for n, file in enumerate(files)
    ]
    return order_stage(Kind.GENERATE, GENERATE, documents=put(shop, documents))


def shared(shop: Workshop) -> Order:
    return shop.order(generating(shop)).model_copy(update={"shards": SHARDS})


def name_of(stage: OrderStage) -> str:
    return fingerprint(stage.kind, stage.parameters, {name: str(i.digest) for name, i in stage.inputs.items()})


def stages_in(shop: Workshop) -> list[str]:
    return [found.key for found in shop.artifacts.store.list(keys.STAGES)]


def test_the_order_is_read_from_the_environment(shop: Workshop) -> None:
    said = shop.pod(shop.order(PREPARE))
    assert said.code == 0, said.errors
    assert said.committed.keys() == {"prepare-model"}
    assert isinstance(said.events[-1], OrderDone)


def test_without_any_order_the_worker_says_where_it_looked(shop: Workshop) -> None:
    message = shop.folder / "termination-log"
    process = shop.start(EVOLUTION_TERMINATION_MESSAGE=str(message))
    out, err = process.communicate(timeout=60)
    assert process.returncode == 40
    failed = parse_event(message.read_bytes())
    assert failed == parse_event(out.splitlines()[-1])
    assert isinstance(failed, Failed)
    assert "no EVOLUTION_ORDER" in failed.message
    assert b"Traceback" not in err


@pytest.mark.parametrize("message", ["short", "long " * 2000, "数据 " * 2000, "\x00\x1f" * 3000, "😀" * 3000])
def test_a_termination_message_is_whole_json_that_kubernetes_keeps(message: str) -> None:
    data = shortened(Failed(stage="r1-train", code=41, reason="DocumentInvalid", message=message, artifact="a" * 64))
    assert len(data) <= MESSAGE_BYTES
    failed = parse_event(data)
    assert isinstance(failed, Failed)
    assert failed.message.removesuffix("…") == message[: len(failed.message.removesuffix("…"))]
    assert len(data) > MESSAGE_BYTES - 20 or failed.message == message


@pytest.mark.parametrize("last", [OrderDone(), Failed(stage="r1-train", code=1, reason="Bug", message="\x00" * 9000)])
def test_the_longest_tally_fits_into_a_termination_message_whole(last: OrderDone | Failed) -> None:
    years = Spending(**{one.name: 10**14 for one in fields(Spending)})
    tally = Tally(
        worker="w" * 253,
        started_at="2026-11-21T12:00:00.000Z",
        gpus=1024,
        unfinished="f" * 64,
        spent=dict.fromkeys(Kind, years),
    )
    data = shortened(last.model_copy(update={"tally": tally}))
    assert len(data) <= MESSAGE_BYTES
    read = parse_event(data)
    assert isinstance(read, OrderDone | Failed)
    assert read.tally == tally


@pytest.fixture(scope="module")
def done_apart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with all parts of a stage, whose workers saw none but their own."""
    shop = Workshop(tmp_path_factory.mktemp("apart"), MODEL)
    order = shared(shop)
    name = name_of(order.stages[0])
    parts = Parts(shop.artifacts, name, SHARDS)
    records = {}
    for shard in range(SHARDS):
        said = shop.pod(order, EVOLUTION_SHARD_INDEX=str(shard))
        assert (said.code, said.committed) == (0, {}), said.errors
        assert parts.read(shard) is not None
        assert shop.artifacts.store.read(keys.progress(RUN, name, shard)) is not None
        [found] = shop.artifacts.store.list(keys.PARTS)
        records[found.key] = shop.artifacts.store.read(found.key) or b""
        shop.artifacts.store.delete(found.key)
    for key, record in records.items():
        shop.artifacts.store.write(key, record)
    assert stages_in(shop) == []
    return shop.folder / "store"


@pytest.fixture
def all_parts(shop: Workshop, done_apart: Path) -> Order:
    """An order whose parts are all done, and nobody has put them together: the worker that was about to was killed."""
    shutil.copytree(done_apart, shop.folder / "store", dirs_exist_ok=True)
    return shared(shop)


@pytest.mark.slow
def test_a_shared_stage_is_committed_by_the_worker_whose_part_was_the_last(shop: Workshop, all_parts: Order) -> None:
    alone = Workshop(shop.folder / "alone", MODEL)
    alone.folder.mkdir()
    expected = alone.pod(alone.order(generating(alone))).committed["generate"]

    fingerprint_ = name_of(all_parts.stages[0])
    [last] = [found.key for found in shop.artifacts.store.list(keys.PARTS) if found.key.endswith("1-of-3.json")]
    shop.artifacts.store.delete(last)
    merged = shop.pod(all_parts, EVOLUTION_SHARD_INDEX="1").committed["generate"]
    assert (merged.outputs, merged.metrics) == (expected.outputs, expected.metrics)
    assert merged.fingerprint == expected.fingerprint
    assert merged.parameters == expected.parameters
    assert stages_in(shop) == [keys.manifest(fingerprint_)]
    assert list(shop.artifacts.store.list(keys.PARTS)) == []


@pytest.mark.slow
def test_a_worker_that_was_killed_before_it_merged_finds_its_part_and_any_number_may_merge_at_once(
    shop: Workshop, all_parts: Order
) -> None:
    environment = {"EVOLUTION_ORDER": all_parts.to_json().decode()}
    mergers = [shop.start(**environment, EVOLUTION_SHARD_INDEX=str(shard)) for shard in (1, 2)]
    said = [[parse_event(line) for line in merger.communicate(timeout=240)[0].splitlines()] for merger in mergers]
    assert [merger.returncode for merger in mergers] == [0, 0]
    assert not any(isinstance(event, ModelLoaded) for events in said for event in events)
    committed = [event for events in said for event in events if isinstance(event, Committed)]
    assert sum(not event.adopted for event in committed) == 1
    standing = shop.artifacts.manifest(name_of(all_parts.stages[0]))
    assert standing is not None
    assert all(event.manifest == standing for event in committed)
    assert shop.artifacts.verify(standing) == []
    assert standing.timings.load > 0, "the time that the parts took counts"


@pytest.mark.slow
def test_a_damaged_part_is_reported_and_done_again(shop: Workshop, all_parts: Order) -> None:
    parts = Parts(shop.artifacts, name_of(all_parts.stages[0]), SHARDS)
    damaged = parts.read(0)
    assert damaged is not None
    blob = shop.folder / "store" / keys.blob(damaged.outputs["answers"].digest)
    blob.chmod(0o644)
    blob.write_bytes(b"")
    said = shop.pod(all_parts, EVOLUTION_SHARD_INDEX="1")
    assert (said.code, said.failed.reason) == (43, "PartDamaged")
    assert [parts.read(shard) is not None for shard in range(SHARDS)] == [False, True, True]
    assert shop.pod(all_parts, EVOLUTION_SHARD_INDEX="0").committed.keys() == {"generate"}


@pytest.mark.parametrize("index", ["", "3", "-1", "one"])
def test_a_share_that_does_not_exist_is_a_bad_spec(shop: Workshop, index: str) -> None:
    said = shop.pod(shared(shop), EVOLUTION_SHARD_INDEX=index)
    assert (said.code, said.failed.reason) == (40, "OrderInvalid")
    assert "0 to 2 are expected" in said.failed.message


def test_only_an_order_of_one_generate_stage_can_be_shared(shop: Workshop) -> None:
    with pytest.raises(ValueError, match="only an order of one Generate stage can be shared by 2 workers"):
        Order.model_validate(shop.order(PREPARE).model_dump() | {"shards": 2})


@pytest.mark.slow
def test_an_order_ends_where_the_gate_decides_against_what_follows(shop: Workshop) -> None:
    items = put(shop, [{"id": "i", "question": "What is 1?", "answer": "no model says this"}])
    evaluation = order_stage(Kind.EVALUATE, EVALUATE, items=items, model="prepare-model:model")
    later = PREPARE.model_copy(update={"id": "later", "parameters": {**PREPARE.parameters, "revision": "2"}})
    order = shop.order(PREPARE, evaluation, later)
    best = Verdict(best=0, best_score=0.9, parent=0)

    def done_under(gate: Gate, verdict: Verdict) -> list[str]:
        decided = OrderGate(gate=gate, metric="ExactMatch", verdict=verdict)
        said = shop.pod(order.model_copy(update={"gate": decided}))
        assert said.code == 0, said.errors
        assert isinstance(said.events[-1], OrderDone)
        return list(said.committed)

    assert done_under(Gate(min_delta=0.0, on_regression="Stop", patience=0), best) == ["prepare-model", "evaluate"]
    assert done_under(Gate(min_delta=0.0, on_regression="Rollback", patience=0), best) == ["prepare-model", "evaluate"]
    assert done_under(Gate(min_delta=0.0, on_regression="Continue", patience=1), best) == ["prepare-model", "evaluate"]
    assert done_under(Gate(min_delta=0.0, on_regression="Continue", patience=2), best) == [
        "prepare-model",
        "evaluate",
        "later",
    ]
    assert done_under(Gate(min_delta=0.0, on_regression="Stop", patience=1), Verdict()) == [
        "prepare-model",
        "evaluate",
        "later",
    ]


@pytest.mark.slow
def test_a_preempted_pod_leaves_within_seconds_and_says_why_and_how_much_of_its_work_is_saved(shop: Workshop) -> None:
    pairs = put(shop, [pair(i) for i in range(12)])
    long = {**TRAIN, "length": {"steps": 100_000}}
    order = shop.order(PREPARE, order_stage(Kind.TRAIN, long, pairs=pairs, model="prepare-model:model"))
    order = order.model_copy(update={"compute": Compute(checkpoint_seconds=0.2)})
    message, began = shop.folder / "termination-log", time.monotonic()
    process = shop.start(EVOLUTION_ORDER=order.to_json().decode(), EVOLUTION_TERMINATION_MESSAGE=str(message))
    assert process.stdout is not None
    started = ""
    for line in process.stdout:
        event = parse_event(line)
        if isinstance(event, Started):
            started = event.fingerprint
        if isinstance(event, Progress) and event.phase == "steps":
            break
    process.send_signal(signal.SIGTERM)
    before = time.monotonic()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 44, err
    wall = 1000 * (time.monotonic() - began)
    assert time.monotonic() - before < 10
    assert len(out.splitlines()) < 5, "logs are for people"
    failed = parse_event(message.read_bytes())
    assert isinstance(failed, Failed)
    assert (failed.stage, failed.code, failed.reason) == ("train", 44, "Preempted")
    assert failed.tally is not None
    spent = failed.tally.spent[Kind.TRAIN]
    assert failed.tally.unfinished == started
    assert spent.saved > 0
    assert spent == Spending(saved=spent.saved, wasted=spent.wasted)
    assert 0 <= wall - failed.tally.milliseconds < WAY_OUT, "all of its time"
    assert list((shop.folder / "cache" / "scratch").iterdir()) == []


BUSY = """
import hashlib, os
from evolution_trainer.preemption import Preempted, raise_on_signals
def compute(): hashlib.pbkdf2_hmac("sha256", b"", b"", 2_000_000_000)
raise_on_signals(lambda: os._exit(44))
try:
    print("ready", flush=True)
    compute()
except Preempted:
    compute()  # the signal came before the computation began, and comes once
"""


def test_a_signal_amid_a_long_computation_ends_the_process_all_the_same() -> None:
    process = subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.terminate()
    try:
        assert process.wait(30) == 44
    finally:
        process.kill()
        process.stdout.close()


class Empty(BaseHTTPRequestHandler):
    """An S3 server without objects."""

    def do_HEAD(self) -> None:
        self.send_response(404)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Silence."""


@pytest.mark.slow
def test_a_short_outage_of_the_store_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in (
        ("EVOLUTION_S3_ENDPOINT", f"http://127.0.0.1:{port}"),
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_REGION", "us-east-1"),
    ):
        monkeypatch.setenv(name, value)
    store = open_store("s3://bucket/prefix")
    with pytest.raises(StoreUnavailable):
        wait_for(store, patience=0.5)
    waiting = threading.Thread(target=wait_for, args=(store,))
    waiting.start()
    while "trying again in 1 s" not in capsys.readouterr().err:
        assert waiting.is_alive()
        waiting.join(0.1)
    with HTTPServer(("127.0.0.1", port), Empty) as server:
        threading.Thread(target=server.serve_forever).start()
        waiting.join(60)
        server.shutdown()
    assert not waiting.is_alive()
