from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from simulated import World, finish, make_run

from evolution.api.run import EvolutionRun
from evolution.api.status import EvolutionRunStatus
from evolution.attempt import Attempt
from evolution.decide import Plan, decide
from evolution.ledger import Ledger
from evolution.observation import Active, Failure, Observation
from evolution.plan.manifest import Manifest
from evolution.plan.stage import Kind
from evolution.plan.worker import ExitCode, Progress

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)


def seen(known: dict[str, Manifest | None], **more: Any) -> Observation:
    return Observation(manifests=known, now=NOON, **more)


def decided(run: EvolutionRun, world: World, **more: Any) -> Plan:
    known: dict[str, Manifest | None] = {}
    while (plan := decide(run, seen(known, **more))).lookups:
        known |= {fingerprint: world.manifests.get(fingerprint) for fingerprint in plan.lookups}
    return plan


def held(seconds: float, *, gpus: int = 1, ended: bool = True) -> Ledger:
    """Of an attempt that began so many seconds before noon, and has ended or is under way."""
    began = (NOON - timedelta(seconds=seconds)).isoformat()
    end: dict[str, Any] = {"ended_at": NOON.isoformat(), "result": "succeeded"} if ended else {}
    times = {"queued_at": began, "allocated_at": began, "started_at": began, **end}
    return Ledger().noting([Attempt(worker="pod", kind=Kind.TRAIN, round=1, gpus=gpus, **times)])


def failure(code: int, *, count: int = 1, at: datetime = NOON) -> Failure:
    return Failure(count=count, code=code, reason="DocumentInvalid", message="docs.jsonl:3: is not JSON", at=at)


def test_an_unknown_fingerprint_is_looked_up_before_anything_is_started() -> None:
    plan = decide(make_run(), seen({}))
    assert len(plan.lookups) == 2  # model and evaluation set; documents wait for the model's tokenizer
    assert plan.start == ()


def test_the_first_stages_are_those_without_inputs() -> None:
    assert [stage.id for stage in decided(make_run(), World()).start] == ["prepare-model", "prepare-evaluation"]


def test_what_later_stages_wait_for_is_started_first() -> None:
    run, world = make_run({"gate": {"patience": 0}}), World()
    while "r1-score" not in (ready := [stage.id for stage in decided(run, world).start]):
        for stage in decided(run, world).start:
            world.manifests[stage.fingerprint or ""] = finish(stage)
    assert ready.index("r1-train") < ready.index("r1-score")


def test_a_stage_that_somebody_works_on_is_not_started_again() -> None:
    run, world = make_run(), World()
    first = decided(run, world).start[0]
    active = {first.fingerprint: Active(first.fingerprint or "", first.id)}
    assert first.id not in [stage.id for stage in decided(run, world, active=active).start]


def test_an_active_stage_that_an_edit_made_unwanted_is_stopped() -> None:
    run, world = make_run(), World()
    active = {"f" * 64: Active("f" * 64, "r1-train")}
    assert decided(run, world, active=active).stop == ("f" * 64,)


def test_suspending_stops_what_is_active_and_starts_nothing() -> None:
    run, world = make_run({"suspend": True}), World()
    stage = decided(make_run(), world).start[0]
    active = {stage.fingerprint: Active(stage.fingerprint or "", stage.id)}
    plan = decided(run, world, active=active)
    assert (plan.stop, plan.start, plan.status.state) == ((stage.fingerprint,), (), "Suspended")
    condition = plan.status.condition("Suspended")
    assert condition is not None
    assert (condition.status, condition.reason) == ("True", "UserRequested")


@pytest.mark.parametrize("code", [ExitCode.BAD_SPEC, ExitCode.BAD_INPUT, ExitCode.LIMIT])
def test_a_permanent_failure_fails_the_run_at_once_and_says_why(code: ExitCode) -> None:
    run, world = make_run(), World()
    stage = decided(run, world).start[0]
    plan = decided(run, world, failures={stage.fingerprint: failure(code)})
    failed = plan.status.condition("Failed")
    assert failed is not None
    assert (plan.start, plan.status.state, failed.status) == ((), "Failed", "True")
    assert failed.message == "prepare-model: docs.jsonl:3: is not JSON"
    assert plan.failure_code == code


@pytest.mark.parametrize(("count", "pause"), [(1, 2), (2, 4)])
def test_a_passing_failure_is_retried_after_a_growing_pause(count: int, pause: int) -> None:
    run, world = make_run(), World()
    stage = decided(run, world).start[0]
    failures = {stage.fingerprint: failure(137, count=count)}
    waiting = decided(run, world, failures=failures)
    assert stage.id not in [started.id for started in waiting.start]
    assert waiting.requeue_after == pause
    assert waiting.status.current[0].waiting_for == f"retry in {pause} s: docs.jsonl:3: is not JSON"
    later = Observation(manifests=world.known(run), now=NOON + timedelta(seconds=pause), failures=failures)
    assert stage.id in [started.id for started in decide(run, later).start]


def test_a_stage_is_given_up_after_the_retry_limit() -> None:
    run, world = make_run(), World()
    stage = decided(run, world).start[0]
    assert decided(run, world, failures={stage.fingerprint: failure(137, count=3)}).status.state == "Failed"


def test_a_preempted_stage_starts_again_at_once() -> None:
    run, world = make_run(), World()
    stage = decided(run, world).start[0]
    plan = decided(run, world, failures={stage.fingerprint: failure(ExitCode.PREEMPTED, count=0)})
    assert stage.id in [started.id for started in plan.start]


def test_a_failure_of_a_stage_that_an_edit_made_unwanted_is_forgotten() -> None:
    assert decided(make_run(), World(), failures={"f" * 64: failure(41)}).status.state == "Pending"


def test_a_spent_budget_suspends_the_run_until_it_grows() -> None:
    world = World()
    small, large = make_run({"budget": {"gpuHours": 1}}), make_run({"budget": {"gpuHours": 2}})
    plan = decided(small, world, ledger=held(3600))
    exceeded = plan.status.condition("BudgetExceeded")
    assert exceeded is not None
    assert (plan.start, plan.status.state, exceeded.status) == ((), "Suspended", "True")
    assert decided(large, world, ledger=held(3600)).start


def test_a_spent_budget_can_end_the_run_with_the_rounds_it_has() -> None:
    run = make_run({"budget": {"gpuHours": 1, "onExceeded": "Stop"}, "rounds": 5, "publish": {"uri": "s3://out/a"}})
    world = World()
    while world.graph(run).stage("r2-evaluate").done is False:  # type: ignore[union-attr]
        for stage in decided(run, world).start:
            world.manifests[stage.fingerprint or ""] = finish(stage)
    plan = decided(run, world, ledger=held(4000))
    assert [stage.id for stage in plan.start] == ["publish"]
    world.manifests[plan.start[0].fingerprint or ""] = finish(plan.start[0])
    complete = decided(run, world, ledger=held(4000)).status.condition("Complete")
    assert complete is not None
    assert (complete.status, complete.reason) == ("True", "Budget")


@pytest.mark.parametrize(
    ("held_seconds", "gpus", "pause"),
    [(600, 2, 1200), (1799.9, 2, 1)],  # of an hour of GPU time
)
def test_a_budget_is_looked_at_again_when_the_workers_under_way_will_have_used_it_up(
    held_seconds: float, gpus: int, pause: float
) -> None:
    world = World()
    for action in ("Suspend", "Stop"):
        run = make_run({"budget": {"gpuHours": 1, "onExceeded": action}})
        assert decided(run, world, ledger=held(held_seconds, gpus=gpus, ended=False)).requeue_after == pause
        assert decided(run, world, ledger=held(held_seconds, gpus=gpus)).requeue_after is None
    assert decided(make_run(), world, ledger=held(held_seconds, gpus=gpus, ended=False)).requeue_after is None


def test_a_budget_that_is_used_up_amid_a_stage_stops_it() -> None:
    run, world = make_run({"budget": {"gpuHours": 1}}), World()
    stage = decided(run, world).start[0]
    active = {"job": Active(stage.fingerprint or "", stage.id)}
    assert decided(run, world, active=active, ledger=held(1799, gpus=2, ended=False)).stop == ()
    plan = decided(run, world, active=active, ledger=held(1800, gpus=2, ended=False))
    assert (plan.stop, plan.requeue_after, plan.status.state) == (("job",), None, "Suspended")


def test_a_budget_that_is_used_up_amid_a_round_ends_the_run_with_the_rounds_before_if_it_is_to_stop() -> None:
    run, world = make_run({"budget": {"gpuHours": 1, "onExceeded": "Stop"}}), World()
    while "r2-generate" not in (ready := {stage.id: stage for stage in decided(run, world).start}):
        for stage in ready.values():
            world.manifests[stage.fingerprint or ""] = finish(stage)
    active = {"job": Active(ready["r2-generate"].fingerprint or "", "r2-generate")}
    assert decided(run, world, active=active, ledger=held(1799, gpus=2, ended=False)).stop == ()
    plan = decided(run, world, active=active, ledger=held(1800, gpus=2, ended=False))
    assert (plan.stop, plan.requeue_after, plan.status.summary) == (("job",), None, "Complete: Budget")


def test_a_finished_run_reports_baseline_best_rounds_and_progress() -> None:
    run, world = make_run(), World()
    world.run_to_the_end(run)
    status = decided(run, world).status
    assert status.state == "Complete"
    assert status.baseline is not None
    assert status.baseline.scores["ROUGEL"] == "0.0000"
    assert status.best is not None
    assert (status.best.round, status.best.scores["ROUGEL"]) == (3, "0.3000")
    assert [record.round for record in status.rounds] == [1, 2, 3]
    assert status.rounds[0].pairs == 3
    assert status.progress.percent == 100


@pytest.mark.slow
def test_status_keeps_the_newest_twenty_rounds() -> None:
    run, world = make_run({"rounds": 25}), World(score=lambda round_: round_ / 100)
    world.run_to_the_end(run)
    assert [record.round for record in decided(run, world).status.rounds] == list(range(6, 26))


def test_a_condition_keeps_its_transition_time_while_its_status_stays() -> None:
    run, world = make_run(), World()
    first = decided(run, world).status
    later = Observation(manifests=world.known(run), now=NOON + timedelta(hours=1), previous=first)
    assert decide(run, later).status.conditions == first.conditions


def test_events_are_told_once() -> None:
    run, world = make_run(), World()
    world.run_to_the_end(run)
    told = decided(run, world)
    assert [event.reason for event in told.events] == ["RoundCompleted"] * 3 + ["MaxRounds"]
    again = decide(run, replace(seen(world.known(run)), previous=told.status))
    assert again.events == ()


def test_progress_of_an_active_stage_is_shown_with_its_eta() -> None:
    run, world = make_run(), World()
    stage = decided(run, world).start[0]
    name = stage.fingerprint or ""
    progress = Progress(stage=stage.id, fingerprint=name, phase="files", done=45, total=100, eta_seconds=12.4)
    current = decided(run, world, active={name: Active(name, stage.id, progress=progress)}).status.current[0]
    assert (current.stage, current.percent, current.eta_seconds) == ("Prepare", 45, 12)


def test_the_status_is_a_document_with_camel_case_fields() -> None:
    run, world = make_run({"publish": {"uri": "s3://out/a"}}), World()
    world.run_to_the_end(run)
    document = decided(run, world, history_uri="s3://b/h.json").status.model_dump(by_alias=True, mode="json")
    assert document["best"]["adapterURI"] == "s3://out/a"
    assert document["historyURI"] == "s3://b/h.json"
    assert EvolutionRunStatus.model_validate(document).state == "Complete"


class AnyHistory(RuleBasedStateMachine):
    """Stages start, finish, die and are preempted in any order, the operator forgets everything, the author edits:
    no stage runs before its inputs, none runs twice at once or after it is done, and in the end the run completes."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.run = make_run({"rounds": 2})
        self.now = NOON
        self.active: dict[str, Active] = {}
        self.failures: dict[str, Failure] = {}
        self.finished: set[str] = set()

    def plan(self) -> Plan:
        return decide(
            self.run,
            Observation(
                manifests=self.world.known(self.run),
                now=self.now,
                active=self.active,
                failures=self.failures,
                retry_limit=10**6,
            ),
        )

    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        plan = self.plan()
        for name in plan.stop:
            del self.active[name]
        if plan.start:
            stage = data.draw(st.sampled_from(plan.start))
            assert stage.fingerprint is not None
            assert stage.fingerprint not in self.finished, "a finished stage was started again"
            assert stage.fingerprint not in self.active, "a stage was started twice"
            have = {output.digest for m in self.world.manifests.values() for output in m.outputs.values()}
            assert all(source.digest in have for source in stage.inputs.values()), (
                "a stage was started before its inputs"
            )
            self.active[stage.fingerprint] = Active(stage.fingerprint, stage.id)

    @precondition(lambda self: self.active)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.active)))
        stage = next((s for s in self.world.graph(self.run).stages if s.fingerprint == name), None)
        if stage is not None and not stage.done:
            self.world.manifests[name] = finish(stage)
            self.finished.add(name)
        self.active.pop(name)
        self.failures.pop(name, None)

    @precondition(lambda self: self.active)
    @rule(data=st.data(), code=st.sampled_from([1, 43, 44, 137, 143]))
    def die(self, data: st.DataObject, code: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.active)))
        self.active.pop(name)
        before = self.failures.get(name)
        count = (before.count if before else 0) + (code != ExitCode.PREEMPTED)
        self.failures[name] = failure(code, count=count, at=self.now)

    @rule(seconds=st.integers(1, 400))
    def wait(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @rule()
    def forget(self) -> None:
        self.failures.clear()

    @rule(rate=st.sampled_from([1e-4, 2e-4]), rounds=st.integers(1, 3), suspend=st.booleans())
    def edit(self, rate: float, rounds: int, suspend: bool) -> None:
        self.run = make_run({"rounds": rounds, "training": {"learningRate": rate}, "suspend": suspend})

    @invariant()
    def the_state_follows_from_the_conditions(self) -> None:
        status = self.plan().status
        holds = {condition.type for condition in status.conditions if condition.status == "True"}
        assert (status.state == "Complete") == ("Complete" in holds)
        assert (status.state == "Suspended") == ("Suspended" in holds)
        assert ("Failed" in holds) == (status.state == "Failed")

    def teardown(self) -> None:
        self.run = make_run({"rounds": 2})
        for _ in range(100):
            self.now += timedelta(seconds=400)
            plan = self.plan()
            self.active = {name: a for name, a in self.active.items() if name not in plan.stop}
            if plan.status.state == "Complete":
                return
            for stage in plan.graph.stages if plan.graph else ():
                if stage.ready and stage.fingerprint:
                    self.world.manifests[stage.fingerprint] = finish(stage)
        raise AssertionError("the run never completed")


AnyHistory.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAnyHistory = AnyHistory.TestCase
