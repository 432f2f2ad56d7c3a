"""What a schedule does next, and that it never starts anything twice."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from api_objects import schedule as schedule_body
from hypothesis import given
from hypothesis import strategies as st

from evolution.api.load import schedule_from_object
from evolution.api.schedule import EvolutionScheduleStatus
from evolution.schedule import Decision, ScheduledRun, Seen, Sight, decide, refused_status

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def schedule(**spec: Any) -> Any:
    """By the clock every hour, unless told otherwise."""
    return schedule_from_object(schedule_body({f"spec.{name}": value for name, value in spec.items()}))


ON_CHANGE = {"schedule": "", "onChange": {"interval": "1h"}}


@dataclass
class World:
    """A schedule with what it has started, its clock, and documents that change."""

    schedule: Any
    now: datetime = NOON
    documents: str = "first"
    hidden: Sight | None = None
    status: EvolutionScheduleStatus = field(default_factory=EvolutionScheduleStatus)
    runs: dict[str, ScheduledRun] = field(default_factory=dict)
    started: list[str] = field(default_factory=list)
    generation: int = 1
    retry: str = ""

    def seen(self) -> Seen:
        hourly = self.now.replace(minute=0, second=0, microsecond=0)
        by_clock = bool(self.schedule.spec.schedule)
        return Seen(
            now=self.now,
            created_at=NOON - timedelta(minutes=1),
            generation=self.generation,
            previous=self.status,
            runs=list(self.runs.values()),
            due=hourly if by_clock else None,
            next=hourly + HOUR if by_clock else None,
            retry_requested_at=self.retry,
        )

    def reconcile(self, *, dies: bool = False) -> Decision:
        """As the operator does; one that dies has created the run, and written nothing."""
        seen = self.seen()
        decision = decide(self.schedule, seen)
        if decision.look:
            seen = replace(seen, sight=self.hidden or Sight(self.documents, "questions"))
            decision = decide(self.schedule, seen)
            assert not decision.look
        for run in decision.replace:
            del self.runs[run.name]
        if (start := decision.start) and start.name not in self.runs:
            self.started.append(start.name)
            self.runs[start.name] = ScheduledRun(
                name=start.name,
                uid=f"uid-{len(self.started)}",
                created_at=self.now.replace(microsecond=0),
                state="Active",
                documents=start.documents,
                evaluation=start.evaluation,
                slot=start.slot,
                failures_before=start.failures_before,
            )
        if not dies:
            self.status = decision.status
            for run in decision.expired:
                del self.runs[run.name]
        return decision

    def passes(self, **time: float) -> None:
        self.now += timedelta(**time)

    def end(self, state: str, name: str = "") -> None:
        name = name or next(name for name, run in self.runs.items() if run.state == "Active")
        ended = self.now.replace(microsecond=0)
        self.runs[name] = replace(self.runs[name], state=state, ended_at=ended, summary=f"{state}: Because")

    def stalled(self) -> str:
        condition = self.status.condition("Stalled")
        assert condition is not None
        return condition.reason if condition.status == "True" else ""


def settled(world: World) -> World:
    """After its first run is complete."""
    world.reconcile()
    world.end("Complete")
    world.passes(seconds=2)
    world.reconcile()
    return world


def test_a_time_of_the_schedule_starts_one_run_that_is_named_after_it() -> None:
    world = World(schedule())
    world.reconcile()
    assert world.started == [f"nightly-{int(NOON.timestamp()) // 60}"]
    run = world.runs[world.started[0]]
    assert (run.documents, run.evaluation, run.slot) == ("first", "questions", NOON)
    assert (world.status.last_schedule_time, world.status.next_schedule_time) == (
        "2026-11-21T12:00:00Z",
        "2026-11-21T13:00:00Z",
    )
    assert world.reconcile().start is None
    assert world.status.summary == "Running"


def test_times_that_were_missed_start_one_run() -> None:
    world = settled(World(schedule()))
    world.passes(hours=9)
    world.reconcile()
    world.end("Complete")
    world.passes(seconds=5)
    world.reconcile()
    assert len(world.started) == 2


def test_a_time_before_the_schedule_was_made_starts_nothing() -> None:
    world = World(schedule(), now=NOON - timedelta(seconds=30))
    assert world.reconcile().start is None


@pytest.mark.parametrize(("late", "starts"), [(599, 1), (601, 0)])
def test_what_was_missed_for_longer_than_the_deadline_is_passed_over(late: int, starts: int) -> None:
    world = World(schedule(startingDeadlineSeconds=600), now=NOON + timedelta(seconds=late))
    world.reconcile()
    assert len(world.started) == starts


def test_the_first_look_starts_a_run_and_the_next_ones_only_what_has_changed() -> None:
    world = settled(World(schedule(**ON_CHANGE)))
    decision = world.reconcile()
    assert decision.again_at == datetime.fromisoformat(world.status.last_look_time or "") + HOUR
    world.passes(hours=1)
    world.reconcile()
    assert len(world.started) == 1
    world.documents = "second"
    world.passes(minutes=59)
    world.reconcile()
    assert len(world.started) == 1, "it looks once an hour"
    world.passes(minutes=1)
    world.reconcile()
    assert len(world.started) == 2
    assert world.status.last_documents_digest == "second"


def test_documents_that_come_back_are_a_change_of_their_own() -> None:
    world = settled(World(schedule(**ON_CHANGE)))
    for documents in ("second", "first", "second"):
        world.documents = documents
        world.passes(hours=1)
        world.reconcile()
        world.end("Complete")
        world.passes(seconds=2)
        world.reconcile()
    assert len(set(world.started)) == 4


def test_what_changes_during_a_run_starts_the_next_one_when_it_has_ended() -> None:
    world = World(schedule(**ON_CHANGE))
    world.reconcile()
    world.documents = "second"
    world.passes(hours=3)
    assert world.reconcile().again_at is None, "the end of the run is what it waits for"
    world.end("Complete")
    world.passes(seconds=1)
    world.reconcile()
    assert len(world.started) == 2


def test_a_new_request_makes_it_look_at_once_and_an_edit_too() -> None:
    world = settled(World(schedule(**ON_CHANGE)))
    world.documents = "second"
    world.passes(seconds=5)
    world.retry = "now"
    world.reconcile()
    assert (len(world.started), world.status.last_handled_retry_at) == (2, "now")
    world.end("Complete")
    world.passes(seconds=5)
    world.reconcile()
    world.documents, world.generation = "third", 2
    world.passes(seconds=5)
    world.reconcile()
    assert (len(world.started), world.status.observed_generation) == (3, 2)


def test_a_failed_run_is_not_tried_again_by_itself_but_on_request() -> None:
    world = World(schedule(**ON_CHANGE))
    world.reconcile()
    world.end("Failed")
    for _ in range(30):
        world.passes(hours=1)
        world.reconcile()
    assert len(world.started) == 1
    world.retry = "please"
    world.reconcile()
    assert len(world.started) == 2


def test_after_three_failures_in_a_row_it_pauses_longer_and_longer_and_says_so() -> None:
    world = World(schedule())
    pauses = []
    for _ in range(9):
        begun = len(world.started)
        ended = world.now
        while len(world.started) == begun:
            world.reconcile()
            if len(world.started) == begun:
                assert world.stalled() in ("", "RunsFail")
                world.passes(minutes=20)
        pauses.append((world.now - ended) / HOUR)
        world.end("Failed")
        world.reconcile()
    assert pauses[1:3] == [1, 1], "two failures are tolerated"
    assert pauses[3:] == sorted(pauses[3:])
    assert pauses[-1] == 24
    assert world.status.failures_in_a_row == 9
    assert "9 runs in a row have failed" in str(world.status.condition("Stalled"))
    world.retry = "it is mended"
    world.reconcile()
    world.end("Complete")
    world.reconcile()
    assert (world.status.failures_in_a_row, world.stalled()) == (0, "")


def test_what_has_changed_during_a_pause_starts_a_run_when_it_is_over() -> None:
    world = World(schedule(**{**ON_CHANGE, "onChange": {"interval": "50m"}}))
    for documents in ("first", "second", "third"):
        world.documents = documents
        world.passes(hours=1)
        world.reconcile()
        world.end("Failed")
    world.reconcile()
    world.documents = "fourth"
    ended = world.now
    while len(world.started) == 3:
        again = world.reconcile().again_at
        if len(world.started) == 3:
            assert again
            assert again > world.now
            world.now = again
    assert world.now == ended + HOUR


def test_of_runs_that_have_ended_the_newest_are_kept() -> None:
    world = World(schedule(successfulRunsHistoryLimit=2))
    for state in ("Complete", "Failed", "Complete", "Failed", "Complete"):
        world.reconcile()
        world.end(state)
        world.passes(hours=1)
    world.reconcile()
    kept = [(name, world.runs[name].state) for name in world.started if name in world.runs]
    assert kept == list(zip(world.started[2:], ("Complete", "Failed", "Complete", "Active"), strict=True))


def test_a_status_that_somebody_has_cleared_starts_nothing_again() -> None:
    for spec in ({}, ON_CHANGE):
        world = settled(World(schedule(**spec)))
        before, world.status = world.status, EvolutionScheduleStatus()
        assert world.reconcile().start is None
        assert (world.status.last_run, world.status.last_schedule_time) == (before.last_run, before.last_schedule_time)


def test_a_suspended_schedule_starts_nothing_and_catches_up_once() -> None:
    world = settled(World(schedule()))
    world.schedule = schedule(suspend=True)
    world.passes(hours=5)
    decision = world.reconcile()
    assert (decision.again_at, world.status.summary) == (None, "Suspended")
    world.schedule = schedule()
    world.reconcile()
    assert len(world.started) == 2


def test_sources_that_cannot_be_seen_stall_a_schedule_on_change_and_leave_the_clock_alone() -> None:
    hidden = Sight("", "", "SourcesNotVisible", "its policy has to allow s3:ListBucket")
    world = World(schedule(**ON_CHANGE), hidden=hidden)
    world.reconcile()
    assert (world.started, world.stalled(), world.status.summary) == (
        [],
        "SourcesNotVisible",
        "Stalled: SourcesNotVisible",
    )
    world = World(schedule(), hidden=hidden)
    world.reconcile()
    (name,) = world.started
    assert world.runs[name].documents == name.removeprefix("nightly-"), "its workers look anew"
    assert world.stalled() == ""


def test_a_store_that_is_away_stalls_nothing_and_is_asked_again_soon() -> None:
    world = World(schedule(**ON_CHANGE), hidden=Sight("", "", "StoreUnavailable", "does not answer"))
    decision = world.reconcile()
    assert (world.stalled(), world.status.summary) == ("", "Waiting")
    assert decision.again_at == world.now + timedelta(minutes=1)
    world.hidden = None
    world.passes(minutes=1)
    world.reconcile()
    assert len(world.started) == 1


def test_a_run_that_is_refused_is_told_and_tried_again() -> None:
    for spec in ({}, ON_CHANGE):
        world = World(schedule(**spec))
        seen = replace(world.seen(), sight=Sight("first", "questions"), refused=("RunRefused", "no quota"))
        decision = decide(world.schedule, seen)
        world.status = decision.status
        assert decision.start is None
        assert decision.again_at == world.now + timedelta(minutes=1)
        assert world.reconcile().start is None, "not before its time"
        assert (world.stalled(), world.status.summary) == ("RunRefused", "Stalled: RunRefused")
        world.passes(minutes=1)
        world.reconcile()
        assert (len(world.started), world.stalled()) == (1, "")


def test_a_condition_keeps_its_time_while_it_stays() -> None:
    world = World(schedule())
    first = refused_status(world.seen(), "InvalidSpec", "spec.schedule: is wrong")
    world.passes(hours=1)
    world.status = first
    assert refused_status(world.seen(), "InvalidSpec", "spec.schedule: is wrong") == first


policies = st.sampled_from(["Forbid", "Replace", "Allow"])
steps = st.lists(
    st.one_of(
        st.tuples(st.just("pass"), st.floats(0.1, 50_000)),
        st.tuples(st.just("documents"), st.sampled_from(["first", "second", "third"])),
        st.tuples(st.just("end"), st.sampled_from(["Complete", "Failed"])),
        st.tuples(st.just("die"), st.none()),
        st.tuples(st.just("retry"), st.integers(0, 3).map(str)),
        st.tuples(st.just("hide"), st.booleans()),
        st.tuples(st.just("edit"), st.none()),
        st.tuples(st.just("suspend"), st.booleans()),
    ),
    max_size=40,
)


@given(policies, st.booleans(), st.booleans(), st.integers(1, 3), st.integers(1, 2), steps)
def test_whatever_happens_nothing_starts_twice_and_limits_hold(
    policy: str, by_clock: bool, on_change: bool, successful: int, failed: int, happening: list[tuple[str, Any]]
) -> None:
    spec = {
        "schedule": "0 * * * *" if by_clock or not on_change else "",
        "concurrencyPolicy": policy,
        "successfulRunsHistoryLimit": successful,
        "failedRunsHistoryLimit": failed,
    } | ({"onChange": {"interval": "1h"}} if on_change else {})
    world = World(schedule(**spec))
    for what, value in happening:
        match what:
            case "pass":
                world.passes(seconds=value)
            case "documents":
                world.documents = value
            case "end" if any(run.state == "Active" for run in world.runs.values()):
                world.end(value)
            case "retry":
                world.retry = value
            case "hide":
                world.hidden = Sight("", "", "SourcesNotVisible", "no") if value else None
            case "edit":
                world.generation += 1
            case "suspend":
                world.schedule, world.generation = schedule(**spec, suspend=value), world.generation + 1
        world.reconcile(dies=what == "die")
        running = [run for run in world.runs.values() if run.state == "Active"]
        assert policy == "Allow" or len(running) <= 1
        assert len(world.started) == len(set(world.started))
        slots = [name for name in world.started if "-c" not in name]
        assert slots == sorted(set(slots))
        if what != "die":
            states = [run.state for run in world.runs.values()]
            assert states.count("Complete") <= successful
            assert states.count("Failed") <= failed
            assert set(world.status.active) == {run.name for run in world.runs.values() if run.state == "Active"}
            # Nobody waits for an operator that has gone to sleep: what is due now was done.
            again = world.reconcile()
            assert again.start is None
            assert again.again_at is None or again.again_at > world.now - timedelta(seconds=1)
