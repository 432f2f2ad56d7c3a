"""`evolve status` and `evolve report` tell where the time went, as the ledger in the store has it."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from ledgers import in_vain, ledger_of, under_way
from recorded import STARTED, Recorded, recorded_run
from simulated import MINIMAL
from terminals import Terminal

from evolution.attempt import CLASSES, Attempt
from evolution.ledger import Ledger
from evolution.local.places import local_id
from evolution.plan.stage import Kind
from evolution.store import keys
from evolution.store.folder import FolderStore
from evolution.store.history import write_history

PREEMPTED = in_vain("taken", Kind.TRAIN, 1, STARTED + timedelta(minutes=10), 30.5)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Terminal:
    monkeypatch.setenv("EVOLUTION_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("EVOLUTION_STORE", raising=False)
    monkeypatch.chdir(tmp_path)
    return Terminal(tmp_path, capsys, monkeypatch)


@pytest.fixture
def finished(here: Terminal) -> Recorded:
    """A complete run of `demo.yaml`, whose stages are in the default store."""
    document = {
        "apiVersion": "selfevolution.io/v1alpha1",
        "kind": "EvolutionRun",
        "metadata": {"name": "demo"},
        "spec": {**MINIMAL, "rounds": 2},
    }
    (here.folder / "demo.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    (here.folder / "made").mkdir()
    recorded = recorded_run(here.folder / "made", {"rounds": 2})
    (here.folder / ".evolution").mkdir()
    (here.folder / ".evolution" / "default").symlink_to(here.folder / "made" / "store")
    return recorded


def write(recorded: Recorded, ledger: Ledger) -> None:
    write_history(
        recorded.artifacts.store,
        local_id(recorded.run),
        recorded.run,
        recorded.graph,
        recorded.status,
        failures={},
        ledger=ledger,
    )


def told(here: Terminal) -> dict[str, Any]:
    status: dict[str, Any] = json.loads(here.evolve("status", "demo.yaml", "--json").out)
    return status


def test_every_class_is_a_line_with_its_share(here: Terminal, finished: Recorded) -> None:
    write(finished, ledger_of(finished.graph, more=[PREEMPTED]))
    shown = here.evolve("status", "demo.yaml").out
    ledger = ledger_of(finished.graph, more=[PREEMPTED]).by_class()
    for class_, name in {
        "productive": "productive",
        "cold_start_image": "cold start: image",
        "wasted": "wasted",
    }.items():
        line = next(line for line in shown.splitlines() if line.strip().startswith(name))
        assert line.endswith(f"{100 * ledger[class_] / sum(ledger.values()):.0f} %")  # type: ignore[literal-required]
    assert "checkpoint" not in shown


def test_json_has_the_sums_of_the_ledger(here: Terminal, finished: Recorded) -> None:
    ledger = ledger_of(finished.graph, more=[PREEMPTED])
    write(finished, ledger)
    partition = told(here)["partition"]
    assert partition["unit"] == "GPU"
    assert partition["seconds"] == {class_: value / 1000 for class_, value in ledger.by_class().items()}
    assert partition["held"] == ledger.allocated(datetime.now(UTC)) / 1000
    assert partition["queued"] == ledger.queued(datetime.now(UTC)) / 1000
    assert partition["unsettled"] == 0
    assert partition["attempts"]["Train"] == {"succeeded": 2, "preempted": 1}
    for class_ in CLASSES:
        assert partition["seconds"][class_] == pytest.approx(sum(of[class_] for of in partition["stages"].values()))


def test_attempts_are_told_by_result_if_any_did_not_succeed(here: Terminal, finished: Recorded) -> None:
    write(finished, ledger_of(finished.graph))
    assert "attempts:" not in here.evolve("status", "demo.yaml").out
    write(finished, ledger_of(finished.graph, more=[PREEMPTED]))
    shown = here.evolve("status", "demo.yaml").out
    assert f"attempts: {len(finished.graph.stages)} succeeded, 1 preempted" in shown
    assert "2026-11-21 08:10:30 round 1 Train was evicted, preempted or interrupted (preempted), 1m 05s wasted" in shown


def test_without_a_gpu_the_lines_are_worker_seconds_and_say_so(here: Terminal, finished: Recorded) -> None:
    write(finished, ledger_of(finished.graph, gpus=0))
    assert "in worker-seconds (no GPU here)" in here.evolve("status", "demo.yaml").out
    partition = told(here)["partition"]
    as_if = ledger_of(finished.graph, gpus=1).by_class()
    assert partition["unit"] == "worker"
    assert partition["seconds"] == {class_: value / 1000 for class_, value in as_if.items()}


def test_what_is_under_way_is_unsettled(here: Terminal, finished: Recorded) -> None:
    write(finished, ledger_of(finished.graph, more=[on_this_machine(finished, seconds_ago=8)]))
    assert told(here)["partition"]["unsettled"] == pytest.approx(10, abs=8)
    assert "unsettled" in here.evolve("status", "demo.yaml").out


def test_a_run_that_was_killed_long_ago_holds_nothing_any_more(here: Terminal, finished: Recorded) -> None:
    write(finished, ledger_of(finished.graph, more=[on_this_machine(finished, seconds_ago=3600)]))
    partition = told(here)["partition"]
    assert partition["unsettled"] == 0
    assert partition["attempts"]["Train"] == {"succeeded": 2, "lost": 1}


def on_this_machine(recorded: Recorded, *, seconds_ago: float) -> Attempt:
    """An attempt at a training that began then, and has not told anything."""
    training = recorded.graph.stage("r2-train")
    assert training
    begun = under_way("laptop-1", Kind.TRAIN, 2, datetime.now(UTC) - timedelta(seconds=seconds_ago), gpus=1)
    return begun.model_copy(update={"job": training.fingerprint})


def test_a_history_of_an_older_version_is_shown_without_it(here: Terminal, finished: Recorded) -> None:
    write(finished, Ledger())
    store = finished.artifacts.store
    assert isinstance(store, FolderStore)
    path = store.path(keys.history(local_id(finished.run)))
    history = json.loads(path.read_bytes())
    del history["ledger"]
    path.write_text(json.dumps({**history, "gpuSecondsUsed": 12.5}), encoding="utf-8")
    shown = here.evolve("status", "demo.yaml")
    assert (shown.code, shown.err) == (0, "")
    assert "where the time went" not in shown.out
    assert "partition" not in told(here)
    assert here.evolve("report", "demo.yaml").code == 0
    assert "no record of this run’s attempts" in (here.folder / "report.html").read_text(encoding="utf-8")


def test_the_report_knows_the_ledger_and_the_price(here: Terminal, finished: Recorded) -> None:
    write(finished, ledger_of(finished.graph))
    assert here.evolve("report", "demo.yaml", "--gpu-price", "1000").code == 0
    page = (here.folder / "report.html").read_text(encoding="utf-8")
    held = ledger_of(finished.graph).allocated(datetime.now(UTC))
    assert f"{held / 3600:.2f} <small>at 1000 per GPU-hour" in page


def test_a_price_below_zero_is_refused(here: Terminal, finished: Recorded) -> None:
    write(finished, Ledger())
    assert here.evolve("report", "demo.yaml", "--gpu-price", "-1").code == 2
