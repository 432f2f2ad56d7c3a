"""What a worker says of its time: every moment in one place, and to the millisecond what its manifests say."""

import shutil
import time
from datetime import datetime
from pathlib import Path

import pytest
from small_run import QUICKSTART
from stages import GENERATE, TRAIN, pair
from trainer.tracking_server import TrackingServer
from worker_process import RUN, Workshop, order_stage, until_order_done

from evolution.plan.order import Compute, OrderStage
from evolution.plan.stage import Kind, canonical_json
from evolution.plan.tally import Spending, Tally, spent_on_committed
from evolution.plan.worker import Committed, Failed, OrderDone, Progress, Started, parse_event
from evolution.store import keys

MODEL = QUICKSTART / "model"
PREPARE = order_stage(Kind.PREPARE, {"source": "Model", "uri": MODEL.as_uri(), "revision": ""}, "prepare-model")


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path, MODEL)


def put(shop: Workshop, rows: list[dict[str, str]]) -> str:
    path = shop.folder / "rows.jsonl"
    path.write_bytes(b"".join(canonical_json(row) + b"\n" for row in rows))
    return shop.artifacts.put_file(path).digest


def training(shop: Workshop, steps: int = 3) -> OrderStage:
    pairs = put(shop, [pair(i) for i in range(12)])
    return order_stage(Kind.TRAIN, {**TRAIN, "length": {"steps": steps}}, pairs=pairs, model="prepare-model:model")


def told(event: object) -> Tally:
    assert isinstance(event, OrderDone | Failed | Progress)
    assert event.tally is not None
    return event.tally


def test_the_last_word_about_an_order_counts_from_the_start_of_the_process(
    shop: Workshop,
) -> None:
    (shop.folder / "sitecustomize.py").write_text("import time\ntime.sleep(1.0)\n", encoding="utf-8")  # slow libraries
    message, before = shop.folder / "termination-log", time.time()
    environment = {"EVOLUTION_WORKER": "evo-x7k2p", "EVOLUTION_TERMINATION_MESSAGE": str(message)}
    said = shop.pod(shop.order(PREPARE), PYTHONPATH=str(shop.folder), **environment)
    tally = told(said.events[-1])
    assert tally.spent == {Kind.PREPARE: spent_on_committed(said.committed["prepare-model"])}
    assert (tally.worker, tally.unfinished) == ("evo-x7k2p", "")
    assert abs(datetime.fromisoformat(tally.started_at).timestamp() - before) < 0.9
    assert tally.spent[Kind.PREPARE].load > 1000
    assert parse_event(message.read_bytes()) == said.events[-1]


def test_every_order_of_a_resident_worker_has_a_tally_of_its_own(shop: Workshop) -> None:
    process = shop.start("--resident", EVOLUTION_WORKER="laptop-1")
    tallies, other = [], PREPARE.model_copy(update={"parameters": {**PREPARE.parameters, "revision": "2"}})
    try:
        assert process.stdin is not None
        for stage in (PREPARE, PREPARE, other):
            process.stdin.write(shop.order(stage).to_json() + b"\n")
            process.stdin.flush()
            *_, last = until_order_done(process)
            tallies.append(told(last))
    finally:
        process.kill()
        process.communicate()
    assert [tally.worker for tally in tallies] == ["laptop-1"] * 3
    assert [Kind.PREPARE in tally.spent for tally in tallies] == [True, False, True], "the second one found it done"
    assert tallies[0].started_at < tallies[2].started_at


@pytest.mark.slow
def test_what_a_killed_worker_has_spent_stands_in_the_store(shop: Workshop) -> None:
    order = shop.order(PREPARE, training(shop, steps=100_000))
    environment = {"EVOLUTION_ORDER": order.to_json().decode(), "EVOLUTION_WORKER": "evo-train-killed"}
    process = shop.start(**environment)
    assert process.stdout is not None
    events = []
    for line in process.stdout:
        events.append(parse_event(line))
        if isinstance(events[-1], Progress) and events[-1].phase == "steps":
            break
    process.kill()
    process.communicate()
    piped = told(events[-1])
    train = next(event.fingerprint for event in reversed(events) if isinstance(event, Started))
    stored = told(Progress.model_validate_json(shop.artifacts.store.read(keys.progress(RUN, train)) or b""))
    for tally in (piped, stored):
        assert tally.worker == "evo-train-killed"
        assert tally.spent[Kind.PREPARE].productive > 0
        assert tally.spent[Kind.TRAIN].wasted > 0, "nothing was saved yet"


@pytest.mark.slow
def test_the_tallies_of_workers_that_share_a_stage_add_up_to_its_manifest(shop: Workshop) -> None:
    files = sorted((QUICKSTART / "documents").iterdir())[:4]
    documents = [
        {"id": f"{n:016x}", "text": file.read_text(encoding="utf-8").strip(), "language": "en"}
        for n, file in enumerate(files)
    ]
    order = shop.order(order_stage(Kind.GENERATE, GENERATE, documents=put(shop, documents)))
    shared = order.model_copy(update={"shards": 2})
    said = [shop.pod(shared, EVOLUTION_SHARD_INDEX=str(shard)) for shard in range(2)]
    first, second = (told(each.events[-1]).spent[Kind.GENERATE] for each in said)
    merged = said[1].committed["generate"]
    assert first.productive > 0
    assert first.kept == 0, "counted where they were put together"
    assert first + second == spent_on_committed(merged)


@pytest.mark.slow
def test_work_that_another_worker_was_faster_with_is_wasted_and_told_to_mlflow_once(
    shop: Workshop, tracking_server: TrackingServer
) -> None:
    compute = Compute(reporters=("MLflow",), mlflow_uri=tracking_server.url)
    order = shop.order(PREPARE, training(shop)).model_copy(update={"compute": compute})
    faster = shop.pod(order).committed["train"]
    told_of_first = list(tracking_server.named(RUN)["metrics"])
    shutil.rmtree(shop.folder / "store" / "stages")

    process = shop.start(EVOLUTION_ORDER=order.to_json().decode())
    assert process.stdout is not None
    for line in process.stdout:
        event = parse_event(line)
        if isinstance(event, Started) and event.stage == "train":
            assert shop.artifacts.store.create(keys.manifest(faster.fingerprint), faster.to_json())
        if isinstance(event, Committed) and event.stage == "train":
            assert event.adopted
    process.communicate()
    spent = told(event).spent[Kind.TRAIN]
    assert spent == Spending(wasted=spent.wasted)
    assert spent.wasted > 0
    assert ("loss", 1, faster.metrics["loss"]) in told_of_first
    assert tracking_server.named(RUN)["metrics"] == told_of_first
