"""A run that cannot proceed says why: in its conditions, and in the summary that `kubectl get` shows."""

from datetime import UTC, datetime
from typing import Any, Literal

import pytest
from simulated import World, finish, make_run

from evolution.api.run import EvolutionRun
from evolution.api.status import ConditionType, EvolutionRunStatus
from evolution.decide import Plan, decide
from evolution.observation import Active, Failure, Observation, Wait
from evolution.plan.dispatch import batches, joint_recipe, make_order
from evolution.plan.graph import Stage
from evolution.plan.manifest import Manifest
from evolution.plan.worker import ExitCode
from evolution.status import hindered_status

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)
NO_RUNTIME = Wait("Blocked", "RuntimeNotFound", "there is no ClusterEvolutionRuntime named 'default'")
NO_NODE = Wait("Queued", "Unschedulable", "0/3 nodes are available: 3 Insufficient nvidia.com/gpu")
RESTARTING = Wait("Retrying", "StoreUnavailable", "connection refused; tried again shortly")


def decided(run: EvolutionRun, world: World, **more: Any) -> Plan:
    known: dict[str, Manifest | None] = {}
    while (plan := decide(run, Observation(manifests=known, now=NOON, **more))).lookups:
        known |= {fingerprint: world.manifests.get(fingerprint) for fingerprint in plan.lookups}
    return plan


def holds(status: EvolutionRunStatus, type_: ConditionType) -> tuple[str, str, str]:
    condition = status.condition(type_)
    assert condition is not None
    return condition.status, condition.reason, condition.message


def advance(run: EvolutionRun, world: World, until: str) -> None:
    """Finish stages until the one with the id `until` is ready."""
    while until not in [stage.id for stage in decided(run, world).start]:
        for stage in decided(run, world).start:
            world.manifests[stage.fingerprint or ""] = finish(stage)


def one_ready(run: EvolutionRun, world: World) -> Stage:
    return decided(run, world).start[0]


def test_without_its_runtime_a_run_starts_nothing_and_is_stalled() -> None:
    plan = decided(make_run(), World(), blocked=NO_RUNTIME)
    assert plan.start == ()
    assert (plan.status.state, plan.status.summary) == ("Pending", "Pending: RuntimeNotFound")
    assert holds(plan.status, "Stalled") == ("True", "RuntimeNotFound", NO_RUNTIME.message)
    assert holds(plan.status, "Progressing")[0] == "False"
    assert [event.reason for event in plan.events] == ["RuntimeNotFound"]


def test_once_the_runtime_is_there_nothing_is_stalled() -> None:
    before = decided(make_run(), World(), blocked=NO_RUNTIME).status
    plan = decided(make_run(), World(), previous=before)
    assert plan.start
    assert holds(plan.status, "Stalled")[0] == "False"


def test_a_run_whose_only_worker_finds_no_node_is_queued_and_not_stalled() -> None:
    run, world = make_run(), World()
    advance(run, world, "r1-train")
    stage = one_ready(run, world)
    active = {"job": Active(stage.fingerprint or "", stage.id, job="job", wait=NO_NODE)}
    status = decided(run, world, active=active).status
    assert (status.state, status.summary) == ("Queued", "Queued: Unschedulable")
    assert holds(status, "Progressing") == ("True", "Unschedulable", NO_NODE.message)
    assert holds(status, "Stalled")[0] == "False"
    assert status.current[0].waiting_for == NO_NODE.message


def test_a_run_goes_on_while_one_of_its_workers_does() -> None:
    run, world = make_run(), World()
    first, second = decided(run, world).start
    active = {
        "a": Active(first.fingerprint or "", first.id, job="a"),
        "b": Active(second.fingerprint or "", second.id, job="b", wait=NO_NODE),
    }
    status = decided(run, world, active=active).status
    assert (status.state, status.summary) == ("Running", "Running")
    assert [c.waiting_for for c in status.current] == ["", NO_NODE.message]


def test_a_worker_that_is_tried_again_leaves_the_run_running_with_the_reason() -> None:
    run, world = make_run(), World()
    advance(run, world, "r1-train")
    stage = one_ready(run, world)
    active = {"job": Active(stage.fingerprint or "", stage.id, job="job", wait=RESTARTING)}
    assert decided(run, world, active=active).status.summary == "Running: StoreUnavailable"


def test_a_stage_whose_old_job_is_still_going_is_not_started() -> None:
    run, world = make_run(), World()
    names = frozenset(stage.fingerprint or "" for stage in decided(run, world).start)
    assert decided(run, world, withheld=names).start == ()


def failed_run() -> tuple[EvolutionRun, World, dict[str, Failure]]:
    run, world = make_run(), World()
    advance(run, world, "r1-train")
    stage = one_ready(run, world)
    failure = Failure(count=1, code=ExitCode.BAD_INPUT, reason="DocumentInvalid", message="no text", at=NOON)
    return run, world, {stage.fingerprint or "": failure}


def test_a_failed_run_names_the_reason_in_its_summary() -> None:
    run, world, failures = failed_run()
    status = decided(run, world, failures=failures, retry_limit=1).status
    assert status.summary == "Failed: DocumentInvalid"
    assert holds(status, "Stalled") == ("True", "DocumentInvalid", "r1-train: no text")


def test_asking_for_another_try_forgets_the_failure_once() -> None:
    run, world, failures = failed_run()
    failed = decided(run, world, failures=failures, retry_limit=1).status
    asked = decided(run, world, failures=failures, previous=failed, retry_requested_at="2026-11-01T12:05:00Z")
    assert asked.again == tuple(failures)
    assert "r1-train" not in [stage.id for stage in asked.start]  # its old Job has to go first
    assert asked.status.last_handled_retry_at == "2026-11-01T12:05:00Z"
    assert asked.status.state == "Running"
    later = decided(
        run, world, failures=failures, previous=asked.status, retry_requested_at="2026-11-01T12:05:00Z", retry_limit=1
    )
    assert later.again == ()
    assert later.status.state == "Failed"
    taken_back = decided(run, world, failures=failures, previous=later.status, retry_limit=1)
    assert taken_back.again == ()  # as by a tool that applies the manifest again, which has no such annotation
    assert taken_back.status.last_handled_retry_at == "2026-11-01T12:05:00Z"


def test_a_refused_spec_fails_the_run_until_it_is_mended() -> None:
    seen = Observation(manifests={}, now=NOON, generation=3)
    wrong = Wait("Blocked", "InvalidSpec", "gate.metric: CHRF is not among evaluation.metrics")
    status = hindered_status(seen, wrong, accepted=False, refused=True)
    assert (status.state, status.summary, status.observed_generation) == ("Failed", "Failed: InvalidSpec", 3)
    assert holds(status, "Accepted") == ("False", "InvalidSpec", wrong.message)
    assert holds(status, "Stalled")[0] == "True"


def test_a_store_that_cannot_be_asked_leaves_the_rest_of_the_status_as_it_was() -> None:
    run, world = make_run(), World()
    advance(run, world, "r2-train")
    before = decided(run, world).status
    seen = Observation(manifests={}, now=NOON, previous=before)
    status = hindered_status(seen, Wait("Retrying", "StoreUnavailable", "s3://bucket: connection refused"))
    assert status.rounds == before.rounds
    assert status.summary == "Running: StoreUnavailable"
    assert holds(status, "Progressing") == ("True", "StoreUnavailable", "s3://bucket: connection refused")


@pytest.mark.parametrize("state", ["Complete", "Failed"])
def test_a_run_that_had_ended_and_cannot_be_looked_at_has_not_ended(state: Literal["Complete", "Failed"]) -> None:
    before = EvolutionRunStatus(state=state, last_handled_retry_at="2026-11-01T12:00:00Z")
    seen = Observation(manifests={}, now=NOON, previous=before, retry_requested_at="2026-11-01T12:05:00Z")
    status = hindered_status(seen, Wait("Retrying", "StoreUnavailable", "s3://bucket: connection refused"))
    assert status.summary == "Pending: StoreUnavailable"
    assert (holds(status, "Complete")[0], holds(status, "Failed")[0]) == ("False", "False")
    assert status.last_handled_retry_at == "2026-11-01T12:00:00Z"  # the other try is still to come


def order_of(run: EvolutionRun, world: World, execution: Any) -> list[list[str]]:
    plan = decided(run, world)
    assert plan.graph is not None
    found = batches(plan.graph, plan.start, execution, plan.taken)
    orders = [make_order(run, "demo-12345678", "s3://bucket/default", plan.graph, batch) for batch in found]
    return [[stage.id for stage in order.stages] for order in orders]


def test_by_stage_every_ready_stage_is_an_order_of_its_own() -> None:
    assert order_of(make_run(), World(), "Stage") == [["prepare-model"], ["prepare-evaluation"]]


def test_by_round_an_order_holds_what_the_round_needs_up_to_the_decision_of_the_gate() -> None:
    run, world = make_run(), World()
    (preparing,) = order_of(run, world, "Round")
    assert preparing == ["prepare-model", "prepare-documents", "prepare-evaluation", "r0-evaluate"]
    advance(run, world, "r1-generate")
    assert order_of(run, world, "Round") == [["r1-generate", "r1-train", "r1-evaluate", "r1-score"]]


def test_by_run_one_order_goes_to_the_end_and_carries_the_gate() -> None:
    run, world = make_run({"rounds": 2}), World()
    (everything,) = order_of(run, world, "Run")
    assert everything[:2] == ["prepare-model", "prepare-documents"]
    assert everything[-2:] == ["r2-train", "r2-evaluate"]
    plan = decided(run, world)
    assert plan.graph is not None
    (batch,) = batches(plan.graph, plan.start, "Run", ())
    order = make_order(run, "demo-12345678", "s3://bucket/default", plan.graph, batch)
    assert order.gate is not None
    assert order.gate.metric == "ROUGEL"


def active_round(run: EvolutionRun, world: World) -> dict[str, Active]:
    plan = decided(run, world)
    assert plan.graph is not None
    (batch,) = batches(plan.graph, plan.start, "Round", ())
    ids = tuple(stage.id for stage in batch.stages)
    return {"job": Active(batch.fingerprint, ids[0], job="job", stages=ids, recipe=joint_recipe(batch.stages))}


def test_an_order_of_several_stages_stays_wanted_while_its_stages_get_done() -> None:
    run, world = make_run(), World()
    advance(run, world, "r1-generate")
    active = active_round(run, world)
    (generate,) = decided(run, world).start
    world.manifests[generate.fingerprint or ""] = finish(generate)
    plan = decided(run, world, active=active)
    assert (plan.stop, plan.start) == ((), ())
    assert [(c.stage, c.job) for c in plan.status.current] == [("Train", "job")]


def test_a_worker_whose_last_stage_ends_the_run_is_left_to_end_by_itself() -> None:
    run, world = make_run({"rounds": 1}), World()
    advance(run, world, "r1-generate")
    active = active_round(run, world)
    world.run_to_the_end(run)
    plan = decided(run, world, active=active)
    assert (plan.status.state, plan.stop, plan.status.current) == ("Complete", (), ())


@pytest.mark.parametrize("execution", ["Round", "Run"])
def test_an_order_of_a_round_waits_for_what_another_order_still_makes_for_it(execution: Any) -> None:
    run, world = make_run(), World()
    advance(run, world, "r1-score")
    for done in ("r1-train", "r1-evaluate"):
        stage = next(stage for stage in decided(run, world).start if stage.id == done)
        world.manifests[stage.fingerprint or ""] = finish(stage)
    plan = decided(run, world)
    assert plan.graph is not None
    assert {stage.id for stage in plan.start} == {"r1-score", "r2-generate"}
    others = [stage for stage in plan.start if stage.id != "r1-score"]
    assert batches(plan.graph, others, execution, {"r1-score"}) == []  # r2-train needs its scores
    assert [batch.first.id for batch in batches(plan.graph, others, "Stage", {"r1-score"})] == ["r2-generate"]


def test_an_edit_that_reaches_into_an_order_stops_it() -> None:
    run, world = make_run(), World()
    advance(run, world, "r1-generate")
    active = active_round(run, world)
    edited = make_run({"training": {"learningRate": 0.5}})
    plan = decided(edited, world, active=active)
    assert plan.stop == ("job",)
    assert [stage.id for stage in plan.start] == ["r1-generate"]


def test_an_order_longer_than_an_environment_variable_is_cut_and_goes_on_later() -> None:
    long = {"question": "{document}" + "?" * 19_000, "answer": "{document}{question}"}
    run, world = make_run({"rounds": 8, "generation": {"prompts": long}}), World()
    (first,) = order_of(run, world, "Run")
    assert first[-1] < "r8"
    assert "r8-evaluate" not in first


@pytest.mark.parametrize("execution", ["Stage", "Round", "Run"])
def test_a_stage_that_an_order_has_is_not_handed_out_twice(execution: Any) -> None:
    run, world = make_run(), World()
    plan = decided(run, world)
    assert plan.graph is not None
    found = batches(plan.graph, plan.start, execution, ())
    ids = [stage.id for batch in found for stage in batch.stages]
    assert len(ids) == len(set(ids))
