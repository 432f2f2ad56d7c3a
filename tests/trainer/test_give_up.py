"""A worker whose grace is over ends with one word, also where its end breaks what is still under way."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from evolution.plan.manifest import Record
from evolution.plan.worker import Failed
from evolution_trainer.worker import Worker


class Ended(BaseException):
    """In place of the process."""


@dataclass
class Told:
    events: list[Record] = field(default_factory=list)

    def emit(self, event: Record) -> None:
        self.events.append(event)


def test_what_breaks_because_its_files_are_gone_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe: Any = Told()
    worker, codes = Worker(pipe, tmp_path), []

    def leave(code: int) -> None:
        codes.append(code)
        raise Ended

    # The main thread fails, and would leave with the code for that, while the folder is being removed.
    monkeypatch.setattr(worker.scratch, "remove", lambda: codes.append(worker.do(b"no order")))
    monkeypatch.setattr(os, "_exit", leave)
    with pytest.raises(Ended):
        worker.give_up()
    assert codes == [44, 44]
    assert [event.reason for event in pipe.events if isinstance(event, Failed)] == ["Preempted"]
