import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulated import World, finish, make_run

from evolution.api.run import EvolutionRun
from evolution.plan.graph import unfold
from evolution.plan.order import OrderInput, order_stage
from evolution.plan.stage import Kind, canonical_json, fingerprint


def runs() -> st.SearchStrategy[EvolutionRun]:
    return st.builds(
        lambda rounds, strategy, writer, init, adapter, patience, regression, publish: make_run(
            {
                "rounds": rounds,
                "model": {"adapterURI": adapter},
                "selection": {"strategy": strategy},
                "generation": {"writer": writer},
                "training": {"initFrom": init},
                "gate": {"patience": patience, "onRegression": regression},
            }
            | ({"publish": {"uri": "s3://out/adapter"}} if publish else {})
        ),
        st.integers(1, 5),
        st.sampled_from(["None", "Random", "All", "Hard", "Easy", "Even"]),
        st.sampled_from(["Adapter", "Base"]),
        st.sampled_from(["Previous", "Base"]),
        st.sampled_from(["", "s3://adapters/start"]),
        st.integers(0, 2),
        st.sampled_from(["Continue", "Rollback", "Stop"]),
        st.booleans(),
    )


scores = st.lists(st.integers(0, 10).map(lambda tenth: tenth / 10), min_size=6, max_size=6)


@given(run=runs(), curve=scores)
def test_every_stage_follows_its_inputs_and_the_run_completes(run: EvolutionRun, curve: list[float]) -> None:
    world = World(score=lambda round_: curve[round_])
    done = {stage.id for stage in world.run_to_the_end(run)}
    graph = world.graph(run)
    assert graph.complete
    assert done >= {stage.id for stage in graph.stages}
    order = [stage.id for stage in graph.stages]
    for stage in graph.stages:
        assert all(order.index(source.stage) < order.index(stage.id) for source in stage.inputs.values())


@given(run=runs(), curve=scores)
def test_a_second_run_of_the_same_file_runs_nothing(run: EvolutionRun, curve: list[float]) -> None:
    world = World(score=lambda round_: curve[round_])
    world.run_to_the_end(run)
    assert world.run_to_the_end(run) == []


@given(run=runs(), curve=scores)
def test_no_stage_is_done_that_the_gate_decides_against(run: EvolutionRun, curve: list[float]) -> None:
    world = World(score=lambda round_: curve[round_])
    done = world.run_to_the_end(run)
    wanted = {stage.id for stage in world.graph(run).stages}
    # Scores run beside training, before it is known whether another round will read them.
    assert {stage.id for stage in done if stage.kind is not Kind.SCORE} <= wanted


def test_more_rounds_only_add_rounds() -> None:
    world = World()
    world.run_to_the_end(make_run({"rounds": 3}))
    added = world.run_to_the_end(make_run({"rounds": 5}))
    assert {stage.id for stage in added} == {
        "r3-score", "r4-generate", "r4-train", "r4-score", "r4-evaluate", "r5-generate", "r5-train", "r5-evaluate",
    }  # fmt: skip


def test_runs_with_different_strategies_share_the_first_round_and_the_baseline() -> None:
    world = World()
    world.run_to_the_end(make_run({"selection": {"strategy": "All"}}))
    other = world.run_to_the_end(make_run({"selection": {"strategy": "Random"}}, name="other"))
    assert {stage.id for stage in other} == {"r2-train", "r2-evaluate", "r3-generate", "r3-train", "r3-evaluate"}


def test_documents_that_differ_only_in_what_normalisation_removes_run_nothing_but_prepare() -> None:
    world = World()
    before, after = make_run(), make_run({"documents": {"revision": "2026-11"}})
    world.run_to_the_end(before)
    ready = [stage for stage in world.graph(after).stages if stage.ready]
    assert [stage.id for stage in ready] == ["prepare-documents"]
    same = world.graph(before).stage("prepare-documents")
    assert same is not None
    assert same.manifest is not None
    assert ready[0].fingerprint is not None
    world.manifests[ready[0].fingerprint] = finish(ready[0]).model_copy(update={"outputs": same.manifest.outputs})
    assert world.graph(after).complete


def test_a_round_waits_for_the_gate_only_where_the_gate_can_decide_something() -> None:
    world = World()
    for patience, state in ((0, "Ready"), (1, "Undecided")):
        run = make_run({"gate": {"patience": patience}})
        while True:
            ready = [s for s in world.graph(run).stages if s.ready and s.id != "r1-evaluate"]
            if not ready or any(s.id == "r2-generate" for s in ready):
                break
            for stage in ready:
                world.manifests[stage.fingerprint or ""] = finish(stage)
        second = world.graph(run).stage("r2-generate")
        assert second is not None
        assert second.state == state


def given_to(stage_id: str, generation: dict[str, str]) -> dict[str, str]:
    """Inputs of a stage of a run with these settings, and from where they come."""
    graph = unfold(make_run({"generation": generation}).spec, {})
    stage = graph.stage(stage_id)
    assert stage is not None
    return {name: f"{source.stage}/{source.output}" for name, source in stage.inputs.items()}


def test_the_choice_among_candidates_is_given_resting_documents_and_earlier_pairs_or_the_learner() -> None:
    any_ = given_to("r3-generate", {"focus": "Any"})
    rests = {"rests": "r2-generate/rests"}
    novel = any_ | rests | {"pairs.1": "r1-generate/pairs", "pairs.2": "r2-generate/pairs"}
    unknown = any_ | rests | {"learner": "r2-train/adapter"}
    assert any_.keys() == {"model", "documents", "adapter"}
    assert given_to("r3-generate", {"focus": "Novel"}) == novel
    assert given_to("r3-generate", {"focus": "Unknown"}) == unknown
    assert given_to("r3-generate", {"focus": "Unknown", "writer": "Base"}) == {
        name: source for name, source in unknown.items() if name != "adapter"
    }
    assert given_to("r1-generate", {"focus": "Unknown"}) == given_to("r1-generate", {"focus": "Any"})


@pytest.mark.parametrize("focus", ["Novel", "Unknown"])
def test_a_run_with_a_focus_completes_and_a_second_one_runs_nothing(focus: str) -> None:
    world = World()
    run = make_run({"generation": {"focus": focus, "candidates": 4}})
    world.run_to_the_end(run)
    assert world.graph(run).complete
    assert world.run_to_the_end(run) == []


def test_scores_are_computed_only_for_strategies_that_read_them() -> None:
    kinds = {strategy: {s.kind for s in unfold(make_run({"selection": {"strategy": strategy}}).spec, {}).stages}
             for strategy in ("None", "All", "Random", "Hard", "Easy", "Even")}  # fmt: skip
    assert {strategy for strategy, found in kinds.items() if Kind.SCORE in found} == {"Hard", "Easy", "Even"}


def test_the_fingerprint_depends_on_kind_parameters_and_inputs_and_not_on_their_order() -> None:
    one = fingerprint(Kind.TRAIN, {"rank": 8, "seed": 1}, {"pairs": "a", "model": "b"})
    assert one == fingerprint(Kind.TRAIN, {"seed": 1, "rank": 8}, {"model": "b", "pairs": "a"})
    assert one != fingerprint(Kind.SCORE, {"rank": 8, "seed": 1}, {"pairs": "a", "model": "b"})
    assert one != fingerprint(Kind.TRAIN, {"rank": 9, "seed": 1}, {"pairs": "a", "model": "b"})
    assert one != fingerprint(Kind.TRAIN, {"rank": 8, "seed": 1}, {"pairs": "b", "model": "a"})


def test_the_fingerprint_is_the_sha256_that_anyone_can_compute() -> None:
    assert (
        fingerprint(Kind.SCORE, {"maxTokens": 5}, {"pairs": "ab"})
        == hashlib.sha256(
            b'{"inputs":{"pairs":"ab"},"kind":"Score","parameters":{"maxTokens":5},"semantics":1}'
        ).hexdigest()
    )  # fmt: skip


def test_not_a_number_has_no_canonical_form() -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"loss": float("nan")})


def test_an_order_names_digests_or_outputs_of_its_own_earlier_stages() -> None:
    graph = unfold(make_run().spec, {})
    documents = graph.stage("prepare-documents")
    assert documents is not None
    with pytest.raises(ValueError, match="prepare-documents needs model of prepare-model"):
        order_stage(documents)
    ordered = order_stage(documents, earlier=frozenset({"prepare-model"}))
    assert ordered.inputs == {"model": OrderInput(stage="prepare-model", output="model")}
