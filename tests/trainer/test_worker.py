import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_run import QUICKSTART
from stages import EVALUATE, TRAIN, pair
from worker_process import RUN, Said, Workshop, order_stage, until_order_done

from evolution.plan.manifest import Manifest
from evolution.plan.order import OrderStage
from evolution.plan.stage import Kind, canonical_json
from evolution.plan.tally import spent_on_committed
from evolution.plan.worker import Committed, Event, ModelLoaded, OrderDone, Progress, Ready, Started, parse_event
from evolution.store import keys

MODEL = QUICKSTART / "model"
PREPARE = order_stage(Kind.PREPARE, {"source": "Model", "uri": MODEL.as_uri(), "revision": ""}, "prepare-model")
FROM_MODEL = "prepare-model:model"
LONG = {**TRAIN, "length": {"steps": 100_000}}


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path, MODEL)


def put(shop: Workshop, rows: list[dict[str, str]]) -> str:
    path = shop.folder / "rows.jsonl"
    path.write_bytes(b"".join(canonical_json(row) + b"\n" for row in rows))
    return shop.artifacts.put_file(path).digest


def training(shop: Workshop, **changes: object) -> OrderStage:
    pairs = put(shop, [pair(i) for i in range(12)])
    return order_stage(Kind.TRAIN, {**TRAIN, **changes}, pairs=pairs, model=FROM_MODEL)


def evaluation(shop: Workshop, **more: str) -> OrderStage:
    items = put(shop, [{"id": f"i{i}", "question": f"What is {i}?", "answer": "seven"} for i in range(5)])
    return order_stage(Kind.EVALUATE, EVALUATE, items=items, model=FROM_MODEL, **more)


@pytest.fixture
def resident(shop: Workshop) -> Iterator["subprocess.Popen[bytes]"]:
    process = shop.start("--resident")
    yield process
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        assert pipe is not None
        pipe.close()


def ask(process: "subprocess.Popen[bytes]", shop: Workshop, *stages: OrderStage) -> None:
    assert process.stdin is not None
    process.stdin.write(shop.order(*stages).to_json() + b"\n")
    process.stdin.flush()


def started(process: "subprocess.Popen[bytes]") -> str:
    """Read on until the worker is in the middle of a training: the stage's fingerprint."""
    fingerprint = ""
    for event in until_order_done(process):
        if isinstance(event, Started):
            fingerprint = event.fingerprint
        if isinstance(event, Progress) and event.phase == "steps":
            return fingerprint
    return pytest.fail("the worker never came to a training step")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workshop, Said]:
    """A model prepared, an adapter trained, evaluated and published by one worker with one order."""
    shop = Workshop(tmp_path_factory.mktemp("done"), MODEL)
    return shop, shop.do(*everything(shop))


def everything(shop: Workshop) -> list[OrderStage]:
    target = {"uri": (shop.folder / "published here").as_uri(), "model": MODEL.as_uri()}
    return [
        PREPARE,
        training(shop).model_copy(update={"attempt": 3}),
        evaluation(shop, adapter="train:adapter"),
        order_stage(Kind.PUBLISH, target, adapter="train:adapter"),
    ]


def test_an_order_is_done_stage_by_stage_and_its_outputs_feed_later_stages(done: tuple[Workshop, Said]) -> None:
    shop, said = done
    assert said.code == 0, said.errors
    assert isinstance(said.events[-1], OrderDone)
    assert list(said.committed) == ["prepare-model", "train", "evaluate", "publish"]
    trained = said.committed["train"]
    assert said.committed["evaluate"].inputs["adapter"] == trained.outputs["adapter"].digest
    assert shop.artifacts.manifest(trained.fingerprint) == trained
    assert trained.outputs["adapter"].form == "Tree"
    assert trained.outputs["log"].count == 3


def test_the_tally_of_an_order_is_the_sum_of_its_manifests(done: tuple[Workshop, Said]) -> None:
    _, said = done
    last = said.events[-1]
    assert isinstance(last, OrderDone)
    assert last.tally is not None
    assert last.tally.spent == {manifest.kind: spent_on_committed(manifest) for manifest in said.committed.values()}
    assert last.tally.spent[Kind.TRAIN].trained_tokens == said.committed["train"].usage.tokens_in > 0
    assert {kind: spent.kept for kind, spent in last.tally.spent.items() if spent.kept} == {
        Kind.TRAIN: 12,
        Kind.EVALUATE: 5,
    }


def test_the_model_is_loaded_once_for_all_stages_and_only_where_it_is_used(done: tuple[Workshop, Said]) -> None:
    _, said = done
    loads = [n for n, event in enumerate(said.events) if isinstance(event, ModelLoaded)]
    starts = [n for n, event in enumerate(said.events) if isinstance(event, Started)]
    assert len(loads) == 1
    assert starts[1] < loads[0] < starts[2]


def test_a_manifest_tells_times_versions_and_the_attempt(done: tuple[Workshop, Said]) -> None:
    trained = done[1].committed["train"]
    times = trained.timings
    assert times.load > 0
    assert times.work > 0
    assert times.total >= times.load + times.work + times.io - 0.01
    assert times.gpus == 0
    assert trained.versions.keys() == {"python", "evolution", "torch", "transformers", "peft"}
    assert trained.attempt == 3


def test_what_is_done_already_is_adopted_without_doing_or_loading_anything(done: tuple[Workshop, Said]) -> None:
    shop, first = done
    again = shop.do(*everything(shop))
    assert [type(event) for event in again.events] == [Committed] * 4 + [OrderDone]
    assert all(event.adopted for event in again.events if isinstance(event, Committed))
    assert again.committed == first.committed


def test_an_adapter_is_published_as_a_folder_that_peft_loads(done: tuple[Workshop, Said]) -> None:
    folder = done[0].folder / "published here"
    assert sorted(p.name for p in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    settings = json.loads((folder / "adapter_config.json").read_bytes())
    assert settings["base_model_name_or_path"] == str(MODEL)
    assert settings["peft_type"] == "LORA"


def test_publishing_again_restores_what_was_removed(done: tuple[Workshop, Said]) -> None:
    shop, said = done
    folder = shop.folder / "published here"
    (folder / "adapter_model.safetensors").unlink()
    shop.artifacts.forget(said.committed["publish"].fingerprint)
    again = shop.do(*everything(shop))
    assert again.committed["publish"].outputs == said.committed["publish"].outputs
    assert len(list(folder.iterdir())) == 2


def test_a_damaged_blob_is_reported_with_its_digest_and_not_used(done: tuple[Workshop, Said]) -> None:
    shop, said = done
    adapter = said.committed["train"].outputs["adapter"].digest
    weights = next(f for f in shop.artifacts.tree(adapter).files if f.name.endswith(".safetensors")).digest
    blob = shop.folder / "store" / keys.blob(weights)
    whole = blob.read_bytes()
    blob.chmod(0o644)
    try:
        blob.write_bytes(whole[:-20])
        target = {"uri": (shop.folder / "elsewhere").as_uri(), "model": ""}
        other = Workshop(shop.folder, MODEL, {"EVOLUTION_CACHE": str(shop.folder / "empty")})
        failing = other.do(order_stage(Kind.PUBLISH, target, adapter=adapter))
    finally:
        blob.write_bytes(whole)
    assert failing.code == 41
    assert (failing.failed.reason, failing.failed.artifact) == ("ArtifactDamaged", weights)
    assert "Traceback" not in failing.errors
    assert not (shop.folder / "elsewhere").exists()


@pytest.mark.slow
def test_a_resident_worker_keeps_the_model_and_leaves_at_once_when_its_parent_dies(
    shop: Workshop, resident: "subprocess.Popen[bytes]"
) -> None:
    events: list[Event] = []
    for stages in ((PREPARE,), (PREPARE, training(shop)), (PREPARE, evaluation(shop))):
        ask(resident, shop, *stages)
        events += list(until_order_done(resident))
    assert sum(isinstance(event, Ready) for event in events) == 3
    assert sum(isinstance(event, ModelLoaded) for event in events) == 1

    ask(resident, shop, PREPARE, training(shop, **LONG))
    fingerprint = started(resident)
    assert resident.stdin is not None
    resident.stdin.close()
    before = time.monotonic()
    assert resident.wait(30) > 128
    assert time.monotonic() - before < 5
    assert list((shop.folder / "cache" / "scratch").iterdir()) == []
    stored = shop.artifacts.store.read(keys.progress(RUN, fingerprint))
    assert stored is not None
    progress = Progress.model_validate_json(stored)
    assert (progress.stage, progress.phase, progress.total) == ("train", "steps", 100_000)
    assert progress.note.startswith("loss ")


def test_a_resident_worker_ends_well_when_its_input_ends(shop: Workshop, resident: "subprocess.Popen[bytes]") -> None:
    ask(resident, shop, PREPARE)
    assert isinstance(list(until_order_done(resident))[-1], OrderDone)
    assert resident.stdin is not None
    resident.stdin.close()
    assert resident.wait(30) == 0


@pytest.mark.slow
def test_sigterm_ends_a_worker_with_the_code_that_is_not_counted(
    shop: Workshop, resident: "subprocess.Popen[bytes]"
) -> None:
    ask(resident, shop, PREPARE, training(shop, **LONG))
    started(resident)
    resident.send_signal(signal.SIGTERM)
    failed = list(until_order_done(resident))[-1]
    assert resident.wait(30) == 44
    assert (failed.event, failed.code, failed.reason) == ("failed", 44, "Preempted")  # type: ignore[union-attr]
    assert [m.kind for m in manifests(shop)] == [Kind.PREPARE]


def manifests(shop: Workshop) -> list[Manifest]:
    return [
        Manifest.model_validate_json(path.read_bytes()) for path in (shop.folder / "store" / "stages").glob("*.json")
    ]


@pytest.mark.slow
def test_scratch_folders_of_killed_workers_are_removed_by_the_next(
    shop: Workshop, resident: "subprocess.Popen[bytes]"
) -> None:
    ask(resident, shop, PREPARE, training(shop, **LONG))
    started(resident)
    resident.kill()
    resident.wait()
    scratch = shop.folder / "cache" / "scratch"
    assert len(list(scratch.iterdir())) == 1
    assert shop.do(PREPARE.model_copy(update={"parameters": {**PREPARE.parameters, "revision": "2"}})).code == 0
    assert list(scratch.iterdir()) == []


def test_a_manifest_that_cannot_be_read_is_no_manifest(shop: Workshop) -> None:
    first = shop.do(PREPARE).committed["prepare-model"]
    path = shop.folder / "store" / keys.manifest(first.fingerprint)
    path.chmod(0o644)
    path.write_bytes(b'{"fingerprint": "')
    again = shop.do(PREPARE)
    assert again.code == 0
    assert "the stage runs again" in again.errors
    assert again.committed["prepare-model"].outputs == first.outputs


def test_a_store_that_is_no_store_is_refused(shop: Workshop) -> None:
    said = shop.do(PREPARE, store="ftp://somewhere/else")
    assert said.code == 43
    assert said.failed.reason == "StoreRefused"
    assert "Traceback" not in said.errors


def test_a_source_that_is_not_there_is_bad_input(shop: Workshop) -> None:
    missing = {"source": "Evaluation", "uri": "file:///nowhere/questions.jsonl", "revision": ""}
    said = shop.do(order_stage(Kind.PREPARE, missing))
    assert (said.code, said.failed.reason) == (41, "SourceUnusable")
    assert "/nowhere/questions.jsonl" in said.failed.message


def test_a_setting_that_cannot_be_is_a_bad_spec(shop: Workshop) -> None:
    said = shop.do(PREPARE, order_stage(Kind.PREPARE, {"source": "Oracle"}, "prepare-oracle"))
    assert (said.code, said.failed.code, said.failed.stage) == (40, 40, "prepare-oracle")
    assert list(said.committed) == ["prepare-model"]


def test_an_order_that_cannot_be_read_is_a_bad_spec(shop: Workshop) -> None:
    process = shop.start("-")
    out, err = process.communicate(b'{"run": "x"}', timeout=60)
    assert process.returncode == 40
    failed = parse_event(out.splitlines()[-1])
    assert "store: Field required" in failed.message  # type: ignore[union-attr]
    assert b"Traceback" not in err


def test_an_order_file_that_is_not_there_is_a_bad_spec(shop: Workshop) -> None:
    process = shop.start(str(shop.folder / "missing.json"))
    out, err = process.communicate(timeout=60)
    assert process.returncode == 40
    assert "missing.json" in parse_event(out.splitlines()[-1]).message  # type: ignore[union-attr]
    assert b"Traceback" not in err


def test_an_input_from_a_stage_that_is_not_in_the_order_is_a_bad_spec(shop: Workshop) -> None:
    said = shop.do(training(shop))
    assert (said.code, said.failed.reason) == (40, "OrderInvalid")
    assert "input model is model of prepare-model, which no earlier stage of the order makes" in said.failed.message


def test_an_order_file_is_done_like_one_on_standard_input(shop: Workshop) -> None:
    path = shop.folder / "order.json"
    path.write_bytes(shop.order(PREPARE).to_json())
    process = shop.start(str(path))
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert isinstance(parse_event(out.splitlines()[-1]), OrderDone)
