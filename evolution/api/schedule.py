"""The `EvolutionSchedule` resource: runs that start by themselves, at given times or when their documents change."""

import re
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, field_validator, model_validator

from evolution.api.run import EvolutionRunSpec, Metadata, Resource
from evolution.api.runtime import Duration, seconds
from evolution.api.status import Condition, StatusPart

ConcurrencyPolicy = Literal["Forbid", "Replace", "Allow"]

NAME_LENGTH = 31
"""Of a schedule: names of its runs, which have 40 characters, are built from it."""
LEAST_INTERVAL = "10s"

_MONTHS = "JAN|FEB|MAR|APR|MAY|JUN|JUL|AUG|SEP|OCT|NOV|DEC"
_DAYS = "SUN|MON|TUE|WED|THU|FRI|SAT"


def _cron_field(value: str) -> str:
    item = rf"(\*|({value})(-({value}))?)(/[1-9][0-9]?)?"
    return f"(?i)^{item}(,{item})*$"


CRON_FIELDS = (
    ("minute", "0 to 59", _cron_field("[0-5]?[0-9]")),
    ("hour", "0 to 23", _cron_field("[01]?[0-9]|2[0-3]")),
    ("day of the month", "1 to 31", _cron_field("0?[1-9]|[12][0-9]|3[01]")),
    ("month", "1 to 12 or JAN to DEC", _cron_field(f"0?[1-9]|1[0-2]|{_MONTHS}")),
    ("day of the week", "0 to 7 or SUN to SAT", _cron_field(f"[0-7]|{_DAYS}")),
)
"""What each field is called, what it may be, and its pattern, which Python and RE2 read alike."""
FIVE_FIELDS = "give minute, hour, day, month and day of the week with one space between them, as 0 3 * * *"
ZONE_REMEDY = "give an IANA name such as Europe/Berlin, or leave it out for UTC"
NEVER_STARTS = "nothing would ever start a run; give schedule, onChange, or both"


class OnChange(Resource):
    interval: Duration = "1h"
    """How often it is looked whether documents and evaluation set have changed: 10s or more."""

    @field_validator("interval")
    @classmethod
    def _not_too_often(cls, interval: str) -> str:
        if seconds(interval) < seconds(LEAST_INTERVAL):
            raise ValueError(f"is {interval!r}; give {LEAST_INTERVAL} or more, such as 1h")
        return interval


class TemplateMetadata(Resource):
    labels: dict[str, str] = {}
    """Labels of the runs, as that of Kueue's queue."""
    annotations: dict[str, str] = {}
    """Annotations of the runs."""


class RunTemplate(Resource):
    metadata: TemplateMetadata = TemplateMetadata()
    """Labels and annotations of the runs; their names follow from that of the schedule."""
    spec: EvolutionRunSpec
    """The runs, as an EvolutionRun says it; revisions of documents and evaluation set are filled in at each start."""


class EvolutionScheduleSpec(Resource):
    """When runs start, and which."""

    schedule: Annotated[str, Field(max_length=100)] = ""
    """Times in cron's five fields, as 0 3 * * MON; empty starts none by the clock."""
    time_zone: Annotated[str, Field(min_length=1, max_length=64)] = "UTC"
    """Zone of those times by its IANA name, as Europe/Berlin."""
    on_change: OnChange | None = None
    """Start a run when documents or evaluation set have changed since the last run; {} looks once an hour."""
    concurrency_policy: ConcurrencyPolicy = "Forbid"
    """When the last run has not ended: start the next one after it, delete it first, or start another one beside it."""
    suspend: bool = False
    """True starts no more runs; those that there are go on."""
    starting_deadline_seconds: Annotated[int, Field(ge=10, le=10_000_000)] | None = None
    """A time of the schedule that was missed for longer is passed over; empty: the last missed one starts late."""
    successful_runs_history_limit: Annotated[int, Field(ge=1, le=100)] = 3
    """So many complete runs are kept, the newest; what they made stays in the store."""
    failed_runs_history_limit: Annotated[int, Field(ge=1, le=100)] = 1
    """So many failed runs are kept, the newest."""
    run_template: RunTemplate
    """The runs to start."""

    @field_validator("schedule")
    @classmethod
    def _is_cron(cls, schedule: str) -> str:
        fields = schedule.split(" ")
        if schedule and len(fields) != len(CRON_FIELDS):
            raise ValueError(f"{schedule!r} has not cron's five fields; {FIVE_FIELDS}")
        for given, (name, right, pattern) in zip(fields if schedule else (), CRON_FIELDS, strict=False):
            if not re.search(pattern, given):
                raise ValueError(f"{given!r} is no {name}; give {right}, or a range, list or step of them")
        return schedule

    @field_validator("time_zone")
    @classmethod
    def _is_known(cls, zone: str) -> str:
        try:
            ZoneInfo(zone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f"{zone!r} is no time zone; {ZONE_REMEDY}") from None
        return zone

    @model_validator(mode="after")
    def _starts_some(self) -> Self:
        if not self.schedule and self.on_change is None:
            raise ValueError(f"schedule: {NEVER_STARTS}")
        return self


class ScheduleMetadata(Metadata):
    @field_validator("name")
    @classmethod
    def _leaves_room(cls, name: str) -> str:
        if len(name) > NAME_LENGTH:
            raise ValueError(f"is {name!r}; give at most {NAME_LENGTH} characters: names of runs are built from it")
        return name


class EvolutionSchedule(Resource):
    """Runs that start by themselves."""

    api_version: Literal["selfevolution.io/v1alpha1"]
    kind: Literal["EvolutionSchedule"]
    metadata: ScheduleMetadata
    spec: EvolutionScheduleSpec


class ScheduleCondition(Condition):
    """A Kubernetes API condition (metav1.Condition)."""

    type: Literal["Ready", "Stalled", "SourcesVisible"]  # type: ignore[assignment] # others than a run's
    """What the condition is about."""


class EvolutionScheduleStatus(StatusPart):
    """What the operator knows of a schedule."""

    observed_generation: int = 0
    """Generation of the spec that this status speaks of."""
    summary: str = ""
    """How it stands, in short: Waiting, Running, Suspended, or what is in the way."""
    conditions: tuple[ScheduleCondition, ...] = ()
    """Ready: it does what it says. Stalled: somebody has to do something. SourcesVisible: the operator can see whether
    documents and evaluation set have changed."""
    active: tuple[str, ...] = ()
    """Names of its runs that have not ended."""
    last_run: str = ""
    """Name of the run that was started last."""
    last_schedule_time: str | None = None
    """The last time of the schedule for which a run was started."""
    next_schedule_time: str | None = None
    """The next time of the schedule."""
    last_look_time: str | None = None
    """When documents and evaluation set were last looked at."""
    last_documents_digest: str = ""
    """Of the documents' names, sizes and ETags when the last run was started: the run's documents.revision."""
    last_evaluation_digest: str = ""
    """The same of the evaluation set."""
    last_successful_run: str = ""
    """Name of the newest run that is complete."""
    last_successful_time: str | None = None
    """When that one was complete."""
    failures_in_a_row: int = 0
    """How many runs have failed since one was complete."""
    last_handled_retry_at: str = ""
    """The value of annotation selfevolution.io/retry-requested-at that was acted upon last."""

    def condition(self, type_: str) -> ScheduleCondition | None:
        return next((c for c in self.conditions if c.type == type_), None)
