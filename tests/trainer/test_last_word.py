"""The last word of a worker: one, and for people, whatever broke."""

import errno
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

from evolution.plan.manifest import Record
from evolution.plan.order import Order
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


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 290944 vs 290832"),
    ],
)
def test_a_full_disk_is_no_defect_of_the_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def full(*_: object) -> None:
        raise error

    pipe: Any = Told()
    worker = Worker(pipe, tmp_path)
    monkeypatch.setattr(Order, "model_validate_json", full)
    assert worker.do(b"") == 1
    [failed] = pipe.events
    assert failed.reason == "DiskFull"
    assert f"no room is left in {tmp_path}" in failed.message
