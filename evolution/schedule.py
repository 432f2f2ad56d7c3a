"""What an EvolutionSchedule does next: which run to start, which runs to delete, what its status says. Pure.

Nothing is started twice. A run's name follows from the time that it is for, or from the run before it and what has
changed since; whoever decides again on the same facts arrives at the same name.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from evolution.api.runtime import seconds
from evolution.api.schedule import EvolutionSchedule, EvolutionScheduleStatus, ScheduleCondition
from evolution.api.status import transition_time
from evolution.api.times import rfc3339
from evolution.plan.stage import canonical_json, sha256

TOLERATED_FAILURES = 2
"""Runs that may fail one after the other before the next one is put off: by an hour, then two, four, …"""
LONGEST_PAUSE = timedelta(hours=24)
LOOK_AGAIN = timedelta(minutes=1)
"""Pause before sources that could not be seen are looked at again."""

UNAVAILABLE = "StoreUnavailable"
"""Reason why sources cannot be seen that nobody has to do anything about."""
REFUSALS = ("RunRefused", "RunNameTaken")
"""Reasons why a run could not be created."""

RunState = Literal["Active", "Complete", "Failed"]
ConditionType = Literal["Ready", "Stalled", "SourcesVisible"]
ConditionStatus = Literal["True", "False", "Unknown"]


@dataclass(frozen=True)
class ScheduledRun:
    """A run that the schedule has started, as it stands."""

    name: str
    uid: str
    created_at: datetime
    state: RunState
    summary: str = ""
    """Its state with the reason, for people."""
    ended_at: datetime | None = None
    documents: str = ""
    """documents.revision, as of its start."""
    evaluation: str = ""
    slot: datetime | None = None
    """The time of the schedule that it is for; None if a change started it."""
    failures_before: int = 0
    """How many runs had failed in a row when it was started."""


@dataclass(frozen=True)
class Sight:
    """What was seen of the sources: a digest of each, or why there is none."""

    documents: str = ""
    evaluation: str = ""
    reason: str = ""
    """CamelCase; empty if everything could be seen."""
    """UNAVAILABLE if that may pass by itself."""
    message: str = ""


@dataclass(frozen=True)
class Seen:
    """All that a decision rests on."""

    now: datetime
    created_at: datetime
    generation: int
    previous: EvolutionScheduleStatus
    runs: Sequence[ScheduledRun]
    """Of the schedule, without those that are being deleted."""
    due: datetime | None = None
    """The last time of the schedule that is not in the future."""
    next: datetime | None = None
    """The first one that is."""
    sight: Sight | None = None
    """What was seen just now; None if nobody has looked."""
    retry_requested_at: str = ""
    """As somebody wrote it; empty if nobody asks for a retry."""
    refused: tuple[str, str] = ("", "")
    """One of REFUSALS and a message, if the run to start could not be created."""


@dataclass(frozen=True)
class Start:
    """A run to create."""

    name: str
    documents: str
    evaluation: str
    slot: datetime | None
    failures_before: int


@dataclass(frozen=True)
class Decision:
    status: EvolutionScheduleStatus
    look: bool = False
    """The sources are to be looked at, and then it is to be decided again; nothing else is to be done before."""
    replace: tuple[ScheduledRun, ...] = ()
    """To delete before the start."""
    start: Start | None = None
    expired: tuple[ScheduledRun, ...] = ()
    """To delete once the status is written."""
    again_at: datetime | None = None
    """When the schedule is to be looked at again though nothing happens."""


def decide(schedule: EvolutionSchedule, seen: Seen) -> Decision:
    """The next thing to do for `schedule`."""
    case = _Case(schedule, seen)
    if case.wants_look:
        return Decision(seen.previous, look=True)
    start = case.start()
    if (case.active and schedule.spec.concurrency_policy == "Forbid") or case.pause_until or seen.refused[0]:
        start = None
    replace = tuple(case.active) if start and schedule.spec.concurrency_policy == "Replace" else ()
    return Decision(
        status=case.status(start, replace),
        replace=replace,
        start=start,
        expired=case.expired(),
        again_at=case.again_at(start),
    )


class _Case:
    """A schedule and what is seen of it, with what follows."""

    def __init__(self, schedule: EvolutionSchedule, seen: Seen) -> None:
        self.spec, self.name, self.seen = schedule.spec, schedule.metadata.name, seen
        self.previous = seen.previous
        # Within the second that Kubernetes tells, the status knows which run is the newest.
        self.runs = sorted(seen.runs, key=lambda r: (r.created_at, r.name == self.previous.last_run, r.name))
        self.newest = self.runs[-1] if self.runs else None
        self.active = [run for run in self.runs if run.state == "Active"]
        self.retry = seen.retry_requested_at not in ("", self.previous.last_handled_retry_at)

    @property
    def last_run(self) -> str:
        return self.newest.name if self.newest else self.previous.last_run

    @property
    def last_slot(self) -> datetime | None:
        slots = [run.slot for run in self.runs if run.slot]
        return max([*slots, *_times(self.previous.last_schedule_time)], default=None)

    @property
    def last_seen(self) -> tuple[str, str]:
        """Digests of documents and evaluation set as the last run was started."""
        if self.newest:
            return self.newest.documents, self.newest.evaluation
        return self.previous.last_documents_digest, self.previous.last_evaluation_digest

    @property
    def last_ended(self) -> ScheduledRun | None:
        return next((run for run in reversed(self.runs) if run.state != "Active"), None)

    @property
    def failures(self) -> int:
        """Failed runs since one was complete."""
        if self.last_ended is None:
            return self.previous.failures_in_a_row
        return self.last_ended.failures_before + 1 if self.last_ended.state == "Failed" else 0

    @property
    def due_slot(self) -> datetime | None:
        """The time of the schedule for which a run should have been started by now; of several missed ones the last."""
        due, deadline = self.seen.due, self.spec.starting_deadline_seconds
        if due is None or due <= (self.last_slot or self.seen.created_at):
            return None
        late = deadline is not None and self.seen.now - due > timedelta(seconds=deadline)
        return None if late else due

    @property
    def last_look(self) -> datetime | None:
        return max(_times(self.previous.last_look_time), default=None)

    @property
    def wants_look(self) -> bool:
        if self.seen.sight or self.spec.suspend:
            return False
        edited = self.previous.observed_generation != self.seen.generation
        if self.retry or (self.spec.on_change and (edited or not self.last_look)):
            return True
        look = self.next_look(self.last_look, bool(self.active)) if self.last_look else None
        if look is not None and look <= self.seen.now:
            return True
        if self.refused_until and self.refused_until > self.seen.now:
            return False
        return bool(self.due_slot and not (self.waits_for_its_turn and self.active) and not self.pause_until)

    @property
    def refusal(self) -> tuple[str, str]:
        """Reason and message, if the last run to start could not be created."""
        known = self.previous.condition("Stalled")
        if self.seen.sight or self.seen.refused[0] or known is None or known.reason not in REFUSALS:
            return self.seen.refused
        return known.reason, known.message

    @property
    def refused_until(self) -> datetime | None:
        """When it is tried again."""
        last = self.seen.now if self.seen.sight else self.last_look
        return last + LOOK_AGAIN if last and self.refusal[0] and not self.retry else None

    @property
    def waits_for_its_turn(self) -> bool:
        return self.spec.concurrency_policy == "Forbid"

    def next_look(self, last: datetime, active: bool) -> datetime | None:
        """When the sources are to be looked at for changes; None if that is of no use before a run has ended."""
        if self.spec.on_change is None or self.spec.suspend or (active and self.waits_for_its_turn):
            return None
        interval = timedelta(seconds=seconds(self.spec.on_change.interval))
        hindered = self.refusal[0] or self.sources_visible().status == "False"
        look = last + (min(interval, LOOK_AGAIN) if hindered else interval)
        # Kubernetes tells the second in which a run has ended: by the next one it has.
        if self.last_ended and last < (ended := self.ended_at(self.last_ended) + timedelta(seconds=1)):
            look = min(look, ended)
        return max(look, self.pause_end) if self.pause_end and last < self.pause_end else look

    @property
    def changed(self) -> bool:
        sight = self.seen.sight
        return sight is not None and not sight.reason and (sight.documents, sight.evaluation) != self.last_seen

    @property
    def pause_end(self) -> datetime | None:
        """Until when no run is started because the last ones have failed, be that past or to come."""
        if self.retry or self.failures <= TOLERATED_FAILURES or self.last_ended is None:
            return None
        doubled = min(self.failures - TOLERATED_FAILURES - 1, 10)
        return self.ended_at(self.last_ended) + min(timedelta(hours=2**doubled), LONGEST_PAUSE)

    @property
    def pause_until(self) -> datetime | None:
        return self.pause_end if self.pause_end and self.pause_end > self.seen.now else None

    @staticmethod
    def ended_at(run: ScheduledRun) -> datetime:
        return run.ended_at or run.created_at

    def start(self) -> Start | None:
        """The run that should be started now, were there no others."""
        sight, slot = self.seen.sight, self.due_slot
        if self.spec.suspend or sight is None:
            return None
        again = self.retry and self.newest is not None and self.newest.state == "Failed"
        if slot:
            name = f"{self.name}-{int(slot.timestamp()) // 60}"
        elif (self.changed and self.spec.on_change) or again:
            facts = [self.last_run, sight.documents, sight.evaluation, self.seen.retry_requested_at if again else ""]
            name = f"{self.name}-c{sha256(canonical_json(facts))[:7]}"
        else:
            return None
        # What cannot be seen here the workers look at anew in every run.
        hidden = name.removeprefix(f"{self.name}-")
        return Start(name, sight.documents or hidden, sight.evaluation or hidden, slot, self.failures)

    def expired(self) -> tuple[ScheduledRun, ...]:
        complete = [run for run in self.runs if run.state == "Complete"]
        failed = [run for run in self.runs if run.state == "Failed"]
        return (
            *complete[: -self.spec.successful_runs_history_limit],
            *failed[: -self.spec.failed_runs_history_limit],
        )

    def again_at(self, start: Start | None) -> datetime | None:
        if self.spec.suspend:
            return None
        look = self.seen.now if self.seen.sight else self.last_look
        moments = [self.seen.next, self.pause_until, self.refused_until]
        if look:
            moments.append(self.next_look(look, bool(self.active or start)))
        return min((moment for moment in moments if moment), default=None)

    def status(self, start: Start | None, replaced: Sequence[ScheduledRun]) -> EvolutionScheduleStatus:
        seen, previous = self.seen, self.previous
        documents, evaluation = (start.documents, start.evaluation) if start else self.last_seen
        slot = (start.slot if start else None) or self.last_slot
        active = tuple(run.name for run in self.active if run not in replaced) + ((start.name,) if start else ())
        complete = next((run for run in reversed(self.runs) if run.state == "Complete"), None)
        return EvolutionScheduleStatus(
            observed_generation=seen.generation,
            summary=self.summary(bool(active)),
            conditions=self.conditions(bool(active)),
            active=active,
            last_run=start.name if start else self.last_run,
            last_schedule_time=rfc3339(slot) if slot else None,
            next_schedule_time=rfc3339(seen.next) if seen.next and not self.spec.suspend else None,
            last_look_time=rfc3339(seen.now) if seen.sight else previous.last_look_time,
            last_documents_digest=documents,
            last_evaluation_digest=evaluation,
            last_successful_run=complete.name if complete else previous.last_successful_run,
            last_successful_time=rfc3339(self.ended_at(complete)) if complete else previous.last_successful_time,
            failures_in_a_row=self.failures,
            last_handled_retry_at=previous.last_handled_retry_at if self.spec.suspend else seen.retry_requested_at,
        )

    def trouble(self) -> tuple[str, str, bool]:
        """What keeps runs from being started: reason and message, and whether a person has to do something."""
        visible = self.sources_visible()
        if self.spec.suspend:
            return "", "", False
        if self.refusal[0]:
            return *self.refusal, True
        if self.pause_until and self.last_ended:
            message = (
                f"{self.failures} runs in a row have failed, the last one, {self.last_ended.name}, with "
                f"{self.last_ended.summary!r}; none is started before {rfc3339(self.pause_until)}, unless annotation "
                "selfevolution.io/retry-requested-at of the schedule gets a new value"
            )
            return "RunsFail", message, True
        if self.spec.on_change and visible.status == "False":
            return visible.reason, visible.message, visible.reason != UNAVAILABLE
        return "", "", False

    def summary(self, active: bool) -> str:
        reason, _, stalled = self.trouble()
        if self.spec.suspend:
            return "Suspended"
        return f"Stalled: {reason}" if stalled else "Running" if active else "Waiting"

    def conditions(self, active: bool) -> tuple[ScheduleCondition, ...]:
        reason, message, stalled = self.trouble()
        state = "Suspended" if self.spec.suspend else "Running" if active else "Waiting"
        ready = self.condition("Ready", "False" if reason else "True", reason or state, message)
        blocked = self.condition("Stalled", "True" if stalled else "False", reason if stalled else state, message)
        return ready, blocked, self.sources_visible()

    def sources_visible(self) -> ScheduleCondition:
        sight = self.seen.sight
        if sight:
            return self.condition(
                "SourcesVisible", "False" if sight.reason else "True", sight.reason or "Seen", sight.message
            )
        message = "they are looked at when a run is to be started"
        known = self.previous.condition("SourcesVisible")
        return known or self.condition("SourcesVisible", "Unknown", "NotLookedAt", message)

    def condition(self, type_: ConditionType, status: ConditionStatus, reason: str, message: str) -> ScheduleCondition:
        return _condition(self.seen, type_, status, reason, message)


def refused_status(seen: Seen, reason: str, message: str) -> EvolutionScheduleStatus:
    """Of a schedule that cannot be what it says."""
    update = {
        "observed_generation": seen.generation,
        "summary": f"Stalled: {reason}",
        "conditions": (
            _condition(seen, "Ready", "False", reason, message),
            _condition(seen, "Stalled", "True", reason, message),
        ),
        "next_schedule_time": None,
    }
    return seen.previous.model_copy(update=update)


def _condition(
    seen: Seen, type_: ConditionType, status: ConditionStatus, reason: str, message: str
) -> ScheduleCondition:
    return ScheduleCondition(
        type=type_,
        status=status,
        reason=reason,
        message=message,
        last_transition_time=transition_time(seen.previous.condition(type_), status, seen.now),
        observed_generation=seen.generation,
    )


def _times(text: str | None) -> tuple[datetime, ...]:
    """None or one."""
    return (datetime.fromisoformat(text),) if text else ()
