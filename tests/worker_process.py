"""Orders for a real worker process, and what it says."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evolution.plan.manifest import Manifest
from evolution.plan.order import Order, OrderInput, OrderStage
from evolution.plan.stage import Kind
from evolution.plan.worker import Committed, Event, Failed, OrderDone, parse_event
from evolution.store.artifacts import Artifacts
from evolution.store.folder import FolderStore

RUN = "test-0123abcd"


@dataclass
class Workshop:
    """A store, a model, and workers that use them."""

    folder: Path
    model: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def artifacts(self) -> Artifacts:
        return Artifacts(FolderStore(self.folder / "store"), self.folder / "cache")

    def order(self, *stages: OrderStage, store: str = "") -> Order:
        location = store or (self.folder / "store").as_uri()
        return Order(run=RUN, store=location, model=self.model.as_uri(), stages=stages)

    def pod(self, order: Order, **environment: str) -> "Said":
        """A worker that finds its order in its environment, to its end."""
        process = self.start(**{"EVOLUTION_ORDER": order.to_json().decode(), **environment})
        out, err = process.communicate(timeout=240)
        return Said([parse_event(line) for line in out.splitlines()], process.returncode, err.decode())

    def start(self, *arguments: str, **environment: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [sys.executable, "-m", "evolution_trainer", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "EVOLUTION_CACHE": str(self.folder / "cache"), **self.environment, **environment},
        )

    def do(self, *stages: OrderStage, store: str = "") -> "Said":
        """One order by a worker of its own, to its end."""
        process = self.start("-")
        out, err = process.communicate(self.order(*stages, store=store).to_json(), timeout=240)
        return Said([parse_event(line) for line in out.splitlines()], process.returncode, err.decode())


@dataclass(frozen=True)
class Said:
    """Events, exit code and standard error of a worker."""

    events: list[Event]
    code: int
    errors: str

    @property
    def failed(self) -> Failed:
        last = self.events[-1]
        assert isinstance(last, Failed), last
        return last

    @property
    def committed(self) -> dict[str, Manifest]:
        return {event.stage: event.manifest for event in self.events if isinstance(event, Committed)}


def until_order_done(process: "subprocess.Popen[bytes]") -> Iterator[Event]:
    """What a resident worker says about one order."""
    assert process.stdout is not None
    for line in process.stdout:
        event = parse_event(line)
        yield event
        if isinstance(event, OrderDone | Failed):
            return


def order_stage(kind: Kind, parameters: Mapping[str, Any], id_: str = "", **inputs: str) -> OrderStage:
    """A stage of an order; an input is a digest or `<stage>:<output>`."""
    given = {}
    for name, source in inputs.items():
        stage, _, output = source.partition(":")
        given[name] = OrderInput(stage=stage, output=output) if output else OrderInput(digest=source)
    return OrderStage(id=id_ or kind.lower(), kind=kind, round=1, parameters=dict(parameters), inputs=given)
