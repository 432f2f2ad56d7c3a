"""What a worker says: JSON lines on its standard output, and its exit code."""

from enum import IntEnum
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from evolution.plan.manifest import Manifest, Record
from evolution.plan.tally import Tally


class ExitCode(IntEnum):
    """Why a worker ended; above 128 it was killed by a signal (retry)."""

    COMMITTED = 0
    """All stages of the order are committed."""
    BAD_SPEC = 40
    BAD_INPUT = 41
    """Documents, evaluation items, model or an artifact cannot be used."""
    LIMIT = 42
    """Budget or deadline."""
    STORE_UNAVAILABLE = 43
    PREEMPTED = 44
    """Stopped after a checkpoint; retried, not counted."""


class Ready(Record):
    """A resident worker waits for orders."""

    event: Literal["ready"] = "ready"


class Started(Record):
    event: Literal["started"] = "started"
    stage: str
    fingerprint: str


class ModelLoaded(Record):
    """The base model was read into memory; counted, since one load per worker is the goal."""

    event: Literal["model-loaded"] = "model-loaded"
    seconds: float


class Progress(Record):
    """How far a stage is; also what `runs/<run>/progress/<fingerprint>.json` holds."""

    event: Literal["progress"] = "progress"
    stage: str
    fingerprint: str
    phase: str
    """What is being counted: questions, answers, pairs, steps, items, documents, nodes."""
    done: int
    total: int
    """0 while the total is unknown."""
    rate: float = 0.0
    """`done` per second."""
    eta_seconds: float | None = None
    note: str = ""
    """A short figure worth seeing meanwhile: the loss."""
    updated_at: str = ""
    """RFC 3339, UTC."""
    tally: Tally | None = None
    """Of the worker that reports, as if it ended now."""


class Committed(Record):
    event: Literal["committed"] = "committed"
    stage: str
    manifest: Manifest
    adopted: bool
    """The manifest was there already: nothing was computed, or another worker was first."""


class OrderDone(Record):
    """The last word about an order that is done."""

    event: Literal["order-done"] = "order-done"
    tally: Tally | None = None


class Failed(Record):
    """The last word of a worker that gives up; it exits with `code`."""

    event: Literal["failed"] = "failed"
    stage: str = ""
    code: int
    reason: str
    """CamelCase, for machines: DocumentInvalid, ArtifactDamaged, ModelUnusable, StoreUnavailable, …"""
    message: str
    """For people: what was wrong, which value, what would be right, where."""
    artifact: str = ""
    """Digest of the blob that is missing or damaged."""
    tally: Tally | None = None


Event = Annotated[
    Ready | Started | ModelLoaded | Progress | Committed | OrderDone | Failed, Field(discriminator="event")
]
_EVENTS: TypeAdapter[Event] = TypeAdapter(Event)


def parse_event(line: str | bytes) -> Event:
    """The event of one line.

    Raises:
        pydantic.ValidationError: the line is no event.
    """
    return _EVENTS.validate_json(line)
