"""Counting the stages of several runs in one store."""

from simulated import World, make_run

from evolution.compare.stages import amount, cost, seconds_left, unfolded
from evolution.plan.graph import Graph
from evolution.plan.manifest import Manifest

EQUAL = {"rounds": 2, "gate": {"patience": 0}}
NONE = make_run({**EQUAL, "selection": {"strategy": "None"}}, name="none")
ALL = make_run({**EQUAL, "selection": {"strategy": "All"}}, name="all")
"""Ten stages each; they differ in the training and the evaluation of round 2."""


def graphs(world: World) -> list[Graph]:
    known: dict[str, Manifest | None] = {}
    return [unfolded(run.spec, known, world.manifests.get) for run in (NONE, ALL)]


def test_what_two_runs_share_is_known_before_anything_is_done() -> None:
    counted = amount(graphs(World()))
    assert (counted.total, counted.distinct, counted.done) == (20, 12, 0)


def test_a_stage_that_one_run_has_done_is_done_for_the_other() -> None:
    world = World()
    before = graphs(world)
    world.run_to_the_end(NONE)
    assert amount(graphs(world)).done == 10
    [none, _] = graphs(world)
    assert amount([none, before[1]]).done == 10  # though the other graph was unfolded before that


def test_every_fingerprint_is_looked_up_once() -> None:
    world = World()
    world.run_to_the_end(ALL)
    asked: list[str] = []

    def look_up(fingerprint: str) -> Manifest | None:
        asked.append(fingerprint)
        return world.manifests.get(fingerprint)

    known: dict[str, Manifest | None] = {}
    for run in (NONE, ALL):
        unfolded(run.spec, known, look_up)
    assert len(asked) == len(set(asked)) == 11  # the evaluation of None's round 2 has no fingerprint yet


def test_common_stages_cost_once() -> None:
    world = World()
    world.run_to_the_end(NONE)
    world.run_to_the_end(ALL)
    both = graphs(world)
    assert [cost([graph]).seconds for graph in both] == [100.0, 100.0]
    assert (cost(both).seconds, cost(both).gpu_seconds) == (120.0, 120.0)


def test_the_time_left_follows_from_stages_of_the_same_kind() -> None:
    world = World()
    assert seconds_left(graphs(world)) is None
    world.run_to_the_end(NONE)
    assert seconds_left(graphs(world)) == 20.0
    world.run_to_the_end(ALL)
    assert seconds_left(graphs(world)) == 0.0
