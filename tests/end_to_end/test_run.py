"""A run through the `evolve` program, with a real worker and a real store."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from small_run import Workplace, small_workplace

from evolution.decide import Plan
from evolution.local.places import open_run
from evolution.local.runner import Runner
from evolution.local.worker import Worker
from evolution.plan.worker import Event

KINDS = ["prepare-model", "prepare-documents", "prepare-evaluation", "r0-evaluate"]
ROUND = ["generate", "train", "evaluate"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    place = small_workplace(tmp_path_factory.mktemp("finished"))
    done = place.evolve("run")
    assert done.returncode == 0, done.stdout + done.stderr
    return place


def test_a_run_ends_complete_with_every_stage_done(finished: Workplace) -> None:
    stages = finished.stages()
    assert set(stages) == {*KINDS, *(f"r{r}-{kind}" for r in (1, 2) for kind in ROUND), "r1-score"}
    assert {stage["state"] for stage in stages.values()} == {"Done"}


def test_the_status_is_the_document_of_the_resource(finished: Workplace) -> None:
    status = json.loads(finished.evolve("status", "--json").stdout)
    assert status["state"] == "Complete"
    assert [record["round"] for record in status["rounds"]] == [1, 2]
    assert {c["type"] for c in status["conditions"] if c["status"] == "True"} == {"Accepted", "Ready", "Complete"}
    assert status["progress"] == {"roundsCompleted": 2, "percent": 100, "etaSeconds": 0}


def test_running_again_does_nothing_and_says_so(finished: Workplace) -> None:
    before = finished.manifests()
    again = finished.evolve("run")
    assert again.returncode == 0
    assert "11 finished stages are reused" in again.stdout
    assert finished.manifests() == before


class CountedWorker(Worker):
    started = 0

    def __init__(self, log: Path) -> None:
        type(self).started += 1
        super().__init__(log)


class Listener:
    """An audience that keeps what the worker says."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.warnings: list[str] = []

    def planned(self, plan: Plan) -> None: ...

    def happened(self, event: Event) -> None:
        self.events.append(event)

    def warned(self, message: str) -> None:
        self.warnings.append(message)


@pytest.mark.slow
def test_one_worker_does_the_whole_run_and_reads_the_base_model_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVOLUTION_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("evolution.local.runner.Worker", CountedWorker)
    listener = Listener()
    plan = Runner(open_run(small_workplace(tmp_path).file, None), listener).run()
    assert plan.status.state == "Complete"
    assert [event.event for event in listener.events].count("model-loaded") == 1
    assert CountedWorker.started == 1
    assert listener.warnings == []


def test_the_finished_rounds_are_printed_as_a_table(finished: Workplace) -> None:
    out = finished.evolve("run").stdout
    assert re.search(r"round\s+pairs\s+rejected\s+loss\s+ExactMatch\s+ROUGEL\s+seconds", out)
    assert re.search(r"^\s+base\s", out, re.MULTILINE)
    assert re.search(r"^\s+2\s+\d+\s+\d+\s+\d\.\d+\s+0\.\d+", out, re.MULTILINE)


def test_plan_says_what_would_run_before_anything_is_spent(tmp_path: Path) -> None:
    place = small_workplace(tmp_path)
    planned = place.evolve("plan")
    assert planned.returncode == 0
    assert "0 stages are reused, 11 run" in planned.stdout
    assert place.manifests() == {}


@pytest.mark.slow
def test_an_edit_runs_only_what_it_changes_and_its_revert_nothing(tmp_path: Path) -> None:
    place = small_workplace(tmp_path)
    assert place.evolve("run").returncode == 0
    original = place.file.read_text(encoding="utf-8")
    first = place.manifests()
    assert ran_by_edit(place, {"rounds": 3}) == {"Score": 1, "Generate": 1, "Train": 1, "Evaluate": 1}
    assert ran_by_edit(place, {"rounds": 2, "evaluation": {"metrics": ["ExactMatch"]}}) == {"Evaluate": 3}
    assert ran_by_edit(place, {"selection": {"strategy": "All"}}) == {"Train": 1, "Evaluate": 1}
    (place.folder / "documents" / "copy.txt").write_text(
        next((place.folder / "documents").iterdir()).read_text(encoding="utf-8") + " \n\n", encoding="utf-8"
    )
    assert ran_by_edit(place, {}) == {"Prepare": 1}, (
        "a document that differs in nothing but blanks changes nothing else"
    )
    (place.folder / "documents" / "copy.txt").unlink()
    place.file.write_text(original, encoding="utf-8")
    assert ran_by_edit(place, {}) == {}
    assert first.items() <= place.manifests().items()


def ran_by_edit(place: Workplace, spec: dict[str, Any]) -> dict[str, int]:
    """How many stages of each kind ran because of an edit."""
    before = place.manifests()
    place.edit(spec)
    done = place.evolve("run")
    assert done.returncode == 0, done.stdout + done.stderr
    kinds = [m["kind"] for name, m in place.manifests().items() if name not in before]
    return {kind: kinds.count(kind) for kind in kinds}


@pytest.mark.parametrize(
    ("what", "row"),
    [
        ("pairs", {"id", "document", "question", "answer"}),
        ("predictions", {"id", "question", "answer", "prediction", "scores"}),
        ("scores", {"id", "ifd", "reason", "loss", "lossAlone", "tokens"}),
        ("log", {"step", "loss", "learningRate"}),
    ],
)
def test_pull_writes_plain_files(finished: Workplace, tmp_path: Path, what: str, row: set[str]) -> None:
    pulled = finished.evolve("pull", what, "--round", "1", "--to", str(tmp_path))
    assert pulled.returncode == 0, pulled.stderr
    rows = [json.loads(line) for line in (tmp_path / f"small-r1-{what}.jsonl").read_text(encoding="utf-8").splitlines()]
    assert rows
    assert all(set(found) == row for found in rows)


def test_pull_writes_an_adapter_folder_that_peft_reads(finished: Workplace, tmp_path: Path) -> None:
    assert finished.evolve("pull", "adapter", "--round", "2", "--to", str(tmp_path)).returncode == 0
    folder = tmp_path / "small-r2-adapter"
    assert {path.name for path in folder.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    from peft import PeftConfig

    assert PeftConfig.from_pretrained(str(folder)).r == 32


def test_pull_names_the_rounds_that_there_are(finished: Workplace) -> None:
    wrong = finished.evolve("pull", "pairs", "--round", "9")
    assert wrong.returncode == 2
    assert "round 9 has no pairs; rounds that have: 1, 2" in " ".join(wrong.stderr.replace("│", " ").split())


@pytest.mark.slow
def test_chat_shows_the_base_and_a_round_side_by_side(finished: Workplace) -> None:
    asked = finished.evolve(
        "chat", "For the Benmuld kiln, what is the owner?", "--round", "1", "--round", "2", "--json"
    )
    assert asked.returncode == 0, asked.stdout + asked.stderr
    assert set(json.loads(asked.stdout)["answers"]) == {"base", "round 1", "round 2"}


@pytest.mark.slow
def test_chat_reads_questions_from_a_pipe(finished: Workplace) -> None:
    asked = finished.evolve("chat", "--json", input_="What?\nWhere is it?\n\n")
    assert [json.loads(line)["question"] for line in asked.stdout.splitlines()] == ["What?", "Where is it?"]


def test_the_report_is_one_page(finished: Workplace, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert finished.evolve("report", "-o", str(page)).returncode == 0
    assert "<html" in page.read_text(encoding="utf-8")


@pytest.mark.slow
def test_publish_leaves_a_plain_peft_folder_once(tmp_path: Path) -> None:
    place = small_workplace(tmp_path, {"rounds": 1, "publish": {"uri": "published", "select": "Last"}})
    done = place.evolve("run")
    assert done.returncode == 0, done.stderr
    files = {path.name for path in (tmp_path / "published").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= files
    assert json.loads((tmp_path / "published" / "adapter_config.json").read_text())["base_model_name_or_path"]


@pytest.mark.slow
def test_gc_removes_what_an_edit_left_behind_and_nothing_that_is_kept(tmp_path: Path) -> None:
    place = small_workplace(tmp_path, {"rounds": 1})
    assert place.evolve("run").returncode == 0
    place.edit({"training": {"learningRate": 5e-4}})
    assert place.evolve("run").returncode == 0
    count = len(place.manifests())
    dry = place.evolve("gc", "--grace", "0")
    assert "would remove 2 stages" in dry.stdout, dry.stdout + dry.stderr
    assert len(place.manifests()) == count
    assert place.evolve("gc", "--grace", "0", "--delete").returncode == 0
    assert len(place.manifests()) == count - 2
    assert "finished stages are reused" in place.evolve("run").stdout
    assert "would remove 0 stages and 0 blobs" in place.evolve("gc", "--grace", "0").stdout


@pytest.mark.slow
def test_retry_finds_a_damaged_artifact_and_does_its_stage_again(tmp_path: Path) -> None:
    place = small_workplace(tmp_path, {"rounds": 1})
    assert place.evolve("run").returncode == 0
    before = place.manifests()
    pairs = next(m["outputs"]["pairs"]["digest"] for m in before.values() if m["kind"] == "Generate")
    blob = tmp_path / ".evolution" / "default" / "blobs" / "sha256" / pairs[:2] / pairs
    blob.chmod(0o644)
    blob.write_bytes(blob.read_bytes()[:-10])
    again = place.evolve("retry")
    assert again.returncode == 0, again.stderr
    assert pairs in again.stderr
    assert "r1-generate is done again" in again.stderr
    assert blob.stat().st_size == next(
        m["outputs"]["pairs"]["size"] for m in before.values() if m["kind"] == "Generate"
    )
    digests = {name: {o: a["digest"] for o, a in m["outputs"].items()} for name, m in place.manifests().items()}
    assert digests == {name: {o: a["digest"] for o, a in m["outputs"].items()} for name, m in before.items()}


@pytest.mark.slow
def test_a_damaged_blob_that_a_later_stage_needs_is_reported_and_made_again(tmp_path: Path) -> None:
    place = small_workplace(tmp_path, {"rounds": 1})
    assert place.evolve("run").returncode == 0
    adapter = next(m for m in place.manifests().values() if m["kind"] == "Train")["outputs"]["adapter"]["digest"]
    listing = tmp_path / ".evolution" / "default" / "blobs" / "sha256" / adapter[:2] / adapter
    weights = json.loads(listing.read_bytes())["files"][1]["digest"]
    blob = listing.parents[1] / weights[:2] / weights
    blob.chmod(0o644)
    blob.write_bytes(b"damaged")
    shutil.rmtree(tmp_path / "cache")  # an unpacked copy of the adapter would do as well
    place.edit({"rounds": 2})
    done = place.evolve("run")
    assert done.returncode == 0, done.stderr
    assert weights in done.stderr + done.stdout
    assert "Train of round 1 is done again" in done.stderr + done.stdout
