"""Rows that an interrupted worker has left."""

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from evolution.plan.worker import ExitCode
from evolution.store.folder import FolderStore
from evolution_trainer.checkpoint import Checkpoints
from evolution_trainer.failure import StageFailed
from evolution_trainer.preemption import Preempted
from evolution_trainer.timing import Clock

ROWS = [{"id": str(n), "text": "网络" * n} for n in range(9)]


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


def checkpoints(store: FolderStore, interval: float = 3600.0) -> Checkpoints:
    return Checkpoints(store, "runs/r-1/checkpoints/f/", Clock(), interval)


def test_work_is_saved_up_to_the_last_row_and_what_an_earlier_worker_did_is_not_this_ones(
    store: FolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    first = checkpoints(store)
    with suppress(Preempted), first.journal("rows", tmp_path / "first") as journal:
        now[0] += 4
        journal(*ROWS)
        assert first.work_saved == 0
        now[0] += 2  # on rows that never came
        raise Preempted
    assert (first.work_saved, first.clock.seconds["work"]) == (4, 6)

    second = checkpoints(store)
    with suppress(Preempted), second.journal("rows", tmp_path / "second") as journal:
        assert journal.count == len(ROWS)
        now[0] += 1
        raise Preempted
    assert second.work_saved == 0


def written(
    store: FolderStore, path: Path, rows: list[Any], *, end: BaseException | type[BaseException] | None, interval: float
) -> int:
    """Write the rows that are missing of `rows`, then leave the journal in a certain way; how many were there."""
    with checkpoints(store, interval).journal("rows", path) as journal:
        before = journal.count
        for row in rows[before:]:
            journal(row)
        if end is not None:
            raise end
    return before


def saved(store: FolderStore) -> list[str]:
    return [found.key for found in store.list("runs/r-1/checkpoints/f/")]


@pytest.fixture
def whole(tmp_path: Path) -> bytes:
    path = tmp_path / "undisturbed.jsonl"
    written(FolderStore(tmp_path / "another"), path, ROWS, end=None, interval=3600.0)
    return path.read_bytes()


def test_a_signal_saves_what_was_written_and_the_next_worker_begins_with_it(
    store: FolderStore, tmp_path: Path, whole: bytes
) -> None:
    with pytest.raises(Preempted):
        written(store, tmp_path / "first", ROWS[:4], end=Preempted, interval=3600.0)
    with pytest.raises(Preempted):
        written(store, tmp_path / "second", ROWS[:6], end=Preempted, interval=3600.0)
    assert len(saved(store)) == 2
    assert written(store, tmp_path / "third", ROWS, end=None, interval=3600.0) == 6
    assert (tmp_path / "third").read_bytes() == whole


def test_a_failure_that_may_pass_saves_what_was_written(store: FolderStore, tmp_path: Path) -> None:
    away = StageFailed("EngineUnavailable", "no answer in 6 attempts", ExitCode.STORE_UNAVAILABLE)
    with pytest.raises(StageFailed):
        written(store, tmp_path / "first", ROWS[:4], end=away, interval=3600.0)
    assert written(store, tmp_path / "next", ROWS, end=None, interval=3600.0) == 4


def test_a_kill_costs_what_was_written_since_the_last_interval(
    store: FolderStore, tmp_path: Path, whole: bytes
) -> None:
    class Killed(BaseException):
        pass

    with pytest.raises(Killed):
        written(store, tmp_path / "seldom", ROWS[:4], end=Killed, interval=3600.0)
    assert saved(store) == []
    with pytest.raises(Killed):
        written(store, tmp_path / "always", ROWS[:4], end=Killed, interval=0.0)
    assert written(store, tmp_path / "next", ROWS, end=None, interval=3600.0) == 4
    assert (tmp_path / "next").read_bytes() == whole


def test_rows_that_were_made_together_are_saved_together(store: FolderStore, tmp_path: Path) -> None:
    with checkpoints(store, interval=0.0).journal("rows", tmp_path / "rows") as journal:
        journal(*ROWS)
        [key] = saved(store)
    assert key.split("/")[-1].startswith(f"{0:012d}-{len(ROWS):012d}-")


@pytest.mark.parametrize("damage", [b"", b"{}\n", b'{"id":"0","text":"x"}\n' * 4])
def test_rows_that_are_not_what_their_name_says_are_written_again(
    store: FolderStore, tmp_path: Path, whole: bytes, damage: bytes
) -> None:
    with pytest.raises(Preempted):
        written(store, tmp_path / "first", ROWS[:4], end=Preempted, interval=3600.0)
    [key] = saved(store)
    store.write(key, damage)
    assert written(store, tmp_path / "next", ROWS, end=None, interval=3600.0) == 0
    assert (tmp_path / "next").read_bytes() == whole


@pytest.mark.parametrize("end", [Preempted, None])
def test_rows_that_follow_from_those_of_another_journal_are_stored_after_them(
    store: FolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: type[BaseException] | None
) -> None:
    """Else answers would be there, and other questions in the place of those that they answer."""
    stored: list[str] = []
    write = store.write
    monkeypatch.setattr(store, "write", lambda key, data: (stored.append(key.split("/")[-2]), write(key, data)))
    kept = checkpoints(store)
    with (
        suppress(Preempted),
        kept.journal("questions", tmp_path / "questions") as questions,
        kept.journal("answers", tmp_path / "answers") as answers,
    ):
        questions(ROWS[0])
        if end is None:
            kept.interval = 0.0
        answers(ROWS[1])
        if end is not None:
            raise end
    assert stored == ["questions", "answers"]


def test_nothing_is_left_once_the_stage_is_committed(store: FolderStore, tmp_path: Path) -> None:
    written(store, tmp_path / "rows", ROWS, end=None, interval=0.0)
    assert saved(store)
    checkpoints(store).remove()
    assert saved(store) == []
