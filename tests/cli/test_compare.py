"""`evolve compare` as it is typed, with invented workers; once with a real one."""

import json
import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from invented_worker import QUESTIONS, InventedWorker, Invention, Trained
from rich.console import Console
from small_run import Workplace, small_workplace

from evolution.cli.main import main
from evolution.plan.order import OrderStage
from evolution.plan.stage import Kind

EQUAL = {"training": {"maxSteps": 3}, "gate": {"patience": 0}, "evaluation": {"metrics": ["ExactMatch"]}}


def better_with_all(trained: Trained) -> int:
    """Right answers: `All` gains two more in each round than `None`, but for seed 3, where it does not."""
    gain = 2 * (trained.round - 1) if trained.strategy == "All" and trained.seed != 3 else 0
    return 4 * trained.round + trained.seed + gain


@dataclass
class Desk:
    """Somebody who compares, in a folder with a run file."""

    place: Workplace
    invention: Invention
    patch: pytest.MonkeyPatch
    capture: pytest.CaptureFixture[str]
    out: str = ""
    err: str = ""

    def compare(self, *arguments: str) -> int:
        """The exit code; what was said is in `out` and `err`."""
        return self.evolve("compare", *arguments)

    def evolve(self, command: str, *arguments: str) -> int:
        self.patch.setattr(sys, "argv", ["evolve", command, str(self.place.file), *arguments])
        self.capture.readouterr()
        try:
            main()
            code = 0
        except SystemExit as left:
            code = int(left.code or 0)
        self.out, self.err = self.capture.readouterr()
        return code

    def result(self, *arguments: str) -> dict[str, Any]:
        assert self.compare(*arguments, "--json") == 0, self.err
        found: dict[str, Any] = json.loads(self.out)
        return found


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Desk:
    monkeypatch.setenv("EVOLUTION_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("EVOLUTION_STORE", raising=False)
    invention = Invention(right=better_with_all)
    monkeypatch.setattr(InventedWorker, "invention", invention, raising=False)
    monkeypatch.setattr("evolution.local.runner.Worker", InventedWorker)
    return Desk(small_workplace(tmp_path, EQUAL), invention, monkeypatch, capsys)


def last_round(result: dict[str, Any], arm: str) -> dict[str, Any]:
    [found] = [entry for entry in result["arms"] if entry["name"] == arm]
    standing: dict[str, Any] = found["rounds"][-1]
    return standing


def rows(text: str, arms: Sequence[str]) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if line.strip().startswith(tuple(arms))]


def test_common_stages_are_done_once_and_by_one_worker(desk: Desk) -> None:
    assert desk.compare("--arms", "None,Random,All,Hard,Easy,Even", "--seeds", "1,2") == 0
    wanted = re.search(r"6 arms × 2 seeds: (\d+) stages, (\d+) without those that they share; 0 of these", desk.out)
    assert wanted
    total, distinct = map(int, wanted.groups())
    assert set(Counter(desk.invention.done).values()) == {1}
    assert len(desk.invention.done) == distinct
    # Common are sources and baseline; of a seed, the first round, the second round's pairs, the scores of the first.
    assert distinct == 4 + 2 * (3 + 1 + 1 + 6 * 2)
    assert total == 2 * 6 * (4 + 3 + 3) + 2 * 3
    assert desk.invention.workers == 1


def test_an_arm_is_compared_with_the_baseline_arm_question_by_question(desk: Desk) -> None:
    result = desk.result("--arms", "None,All", "--seeds", "1,2,3")
    assert (result["metric"], result["baseline"], result["round"]) == ("ExactMatch", "none", 2)
    none, all_ = last_round(result, "none"), last_round(result, "all")
    assert none["bySeed"] == {str(seed): (8 + seed) / QUESTIONS for seed in (1, 2, 3)}
    assert all_["bySeed"] == {"1": 11 / QUESTIONS, "2": 12 / QUESTIONS, "3": 11 / QUESTIONS}
    assert none["difference"] is None
    difference = all_["difference"]
    assert difference["mean"] == pytest.approx(4 / 3 / QUESTIONS, abs=1e-6)
    assert (difference["better"], difference["seeds"]) == (2, 3)
    assert 0 <= difference["low"] <= difference["mean"] <= difference["high"] < 0.15


def test_the_tables_show_means_intervals_seeds_won_and_time(desk: Desk) -> None:
    desk.invention.right = lambda trained: 30 if trained.strategy == "All" else 4
    assert desk.compare("--arms", "None,All", "--seeds", "1,2") == 0
    by_round, at_the_end = desk.out.split("After round 2, against none")
    titles = by_round.splitlines()
    assert any(line.split() == ["arm", "base", "round", "1", "round", "2"] for line in titles)
    assert ["none", "0.000", "0.100", "0.100"] in rows(by_round, ["none"])
    assert ["all", "0.000", "0.100", "0.750"] in rows(by_round, ["all"])
    [none, all_] = rows(at_the_end, ["none", "all"])
    assert none == ["none", "0.100", "baseline", "16", "s"]
    assert all_[:3] == ["all", "0.750", "+0.650"]
    assert all_[5:] == ["2", "of", "2", "seeds", "16", "s"]
    assert "computing took 20 s; each alone, 32 s in all" in at_the_end


def test_an_arm_that_never_differs_takes_one_line(desk: Desk) -> None:
    assert desk.compare("--arms", "None", "--arm", "same=selection.strategy=None", "--arm", "file") == 0
    by_round = desk.out.split("after each round")[1].split("After round 2")[0]
    lines = by_round.splitlines()
    [same] = [n for n, line in enumerate(lines) if line.split()[:1] == ["same"]]
    assert lines[same - 1].split()[0] == "none"
    assert lines[same + 1].split()[0] == "file"


def test_six_rounds_fit_into_eighty_columns(desk: Desk) -> None:
    desk.patch.setattr("evolution.cli.compare.console", Console(highlight=False, width=80))
    desk.place.edit({"rounds": 8})
    assert desk.compare("--arms", "Random,Unknown") == 0
    by_round, _ = desk.out.split("After round 8")
    assert "round 3" not in by_round
    assert "3 earlier rounds are left out" in by_round
    assert "round 8" in by_round
    assert not [line for line in by_round.splitlines() if line.endswith("… ")]


def test_any_arm_may_be_the_baseline(desk: Desk) -> None:
    result = desk.result("--arms", "None,All", "--arm", "file", "--baseline", "All")
    assert [arm["name"] for arm in result["arms"]] == ["none", "all", "file"]
    assert last_round(result, "all")["difference"] is None
    assert last_round(result, "none")["difference"]["mean"] < 0
    assert desk.compare("--arms", "None,All", "--baseline", "Hard") == 40
    assert "baseline: Hard is not among the arms: none, all" in desk.err


def test_the_same_command_again_does_nothing_and_says_the_same(desk: Desk) -> None:
    first = desk.result("--arms", "None,All")
    done = len(desk.invention.done)
    assert desk.result("--arms", "None,All") == first
    assert (len(desk.invention.done), desk.invention.workers) == (done, 1)
    assert f"{done} of these are done" in desk.err


def test_more_seeds_and_arms_do_only_what_is_new(desk: Desk) -> None:
    desk.result("--arms", "None,All", "--seeds", "1")
    before = len(desk.invention.done)
    desk.result("--arms", "None,All,Random", "--seeds", "1")
    assert len(desk.invention.done) - before == 2  # Random's second training and evaluation


def test_the_winner_written_into_the_run_file_is_done_already(desk: Desk) -> None:
    desk.result("--arms", "None,All", "--seeds", "4")
    desk.place.edit({"seed": 4, "selection": {"strategy": "All"}})
    desk.evolve("plan", "--json")
    assert {stage["state"] for stage in json.loads(desk.out)["stages"]} == {"Done"}


def test_interrupted_it_goes_on_where_it_was(desk: Desk) -> None:
    def interrupt(stage: OrderStage) -> str:
        if stage.kind is Kind.TRAIN and stage.round == 2:
            raise KeyboardInterrupt
        return ""

    desk.invention.fails = interrupt
    assert desk.compare("--arms", "None,All") == 130
    assert "the same command goes on from here" in desk.err
    desk.invention.fails = lambda _: ""
    assert desk.compare("--arms", "None,All") == 0
    assert set(Counter(desk.invention.done).values()) == {1}


def fails_with_history(stage: OrderStage) -> str:
    selection = stage.parameters.get("selection")
    all_ = isinstance(selection, dict) and selection["strategy"] == "All"
    return "the adapter does not fit" if all_ else ""


def test_a_failed_arm_does_not_stop_the_others_and_is_told_at_the_end(desk: Desk) -> None:
    desk.invention.fails = fails_with_history
    assert desk.compare("--arms", "None,All,Random") == 41
    assert rows(desk.out.split("After round")[1], ["random"])[0][:2] == ["random", "0.225"]
    assert desk.err.splitlines()[-1].startswith("all, seed 1: failed:")
    assert "the adapter does not fit" in desk.err.splitlines()[-1]


def test_a_stage_that_failed_is_not_tried_again_for_another_arm(desk: Desk) -> None:
    desk.invention.fails = fails_with_history
    code = desk.compare("--arm", "file=selection.strategy=All", "--arms", "None,All,Random", "--json")
    assert code == 41
    failures = json.loads(desk.out)["failures"]
    assert failures["file, seed 1"] == "not tried: r2-train is the same as in small-all-s1, where it failed"
    assert desk.invention.workers == 2  # the one that failed has ended


def test_a_dry_run_says_what_each_arm_sets_and_computes_nothing(desk: Desk) -> None:
    assert desk.compare("--arms", "Hard,Unknown", "--arm", "file", "--dry-run") == 0
    assert re.search(r"hard +selection.strategy: Hard", desk.out)
    assert re.search(r"unknown +generation.focus: Unknown, generation.candidates if not set: 8", desk.out)
    assert re.search(r"file +as in .*run.yaml", desk.out)
    assert "3 arms × 1 seed" in desk.out
    assert desk.invention.done == []


def test_what_writes_the_text_is_chosen_as_for_a_run(desk: Desk) -> None:
    assert desk.compare("--arms", "None,All", "--engine", "openai", "--endpoint", "http://host:8000/v1") == 0
    assert {(c.engine, c.endpoint) for c in desk.invention.computed} == {("OpenAI", "http://host:8000/v1")}
    assert desk.compare("--arms", "None,All", "--engine", "OpenAI", "--dry-run") == 2
    assert "engine OpenAI asks a server" in desk.err


def test_a_warning_that_many_stages_give_is_told_once(desk: Desk) -> None:
    desk.invention.warns = lambda stage: (
        [f"selection.size asks for 60 pairs, {stage.round * 9} can be had"] if stage.kind is Kind.TRAIN else []
    )
    assert desk.compare("--arms", "None,Hard,Easy", "--seeds", "1,2") == 0
    assert desk.out.count("selection.size asks for 60 pairs") == 1
    assert "warning: none, seed 1: r1-train: selection.size" in desk.out


def test_a_wrong_field_is_told_before_anything_is_done(desk: Desk) -> None:
    assert desk.compare("--arms", "None", "--arm", "wide=training.rnk=64") == 40
    assert "arm wide: spec.training.rnk: unknown field; did you mean rank?" in desk.err
    assert desk.compare("--arms", "None,All", "--seeds", "1,two") == 2
    assert desk.invention.workers == 0


def test_training_by_epochs_is_warned_of(desk: Desk) -> None:
    desk.place.edit({"training": {"maxSteps": 0}})
    assert desk.compare("--arms", "None,All", "--dry-run") == 0
    assert "training.maxSteps is 0, so an arm with more pairs trains longer" in desk.err


def test_damaged_predictions_are_made_again_by_the_next_command(desk: Desk) -> None:
    first = desk.result("--arms", "None,All")
    [evaluated] = [m for m in desk.place.manifests().values() if m["kind"] == "Evaluate" and m["round"] == 2][:1]
    digest = evaluated["outputs"]["predictions"]["digest"]
    blob = desk.place.folder / ".evolution" / "default" / "blobs" / "sha256" / digest[:2] / digest
    blob.unlink()
    assert desk.compare("--arms", "None,All") == 41
    assert "the same command does its stage again" in desk.err
    assert desk.result("--arms", "None,All") == first


@pytest.mark.slow
def test_real_arms_share_their_first_round_and_are_compared(tmp_path: Path) -> None:
    place = small_workplace(tmp_path, EQUAL | {"evaluation": {"metrics": ["ROUGEL"]}}, documents=3)
    done = place.evolve("compare", "--arms", "None,All", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout)
    assert (result["metric"], result["round"], result["failures"]) == ("ROUGEL", 2, {})
    kinds = Counter((m["kind"], m["round"]) for m in place.manifests().values())
    assert kinds[("Train", 1)] == 1
    assert kinds[("Train", 2)] == 2
    assert len(list((tmp_path / "cache" / "logs").iterdir())) == 1  # of the one worker
