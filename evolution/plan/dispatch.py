"""From ready stages to orders: which stages one worker does one after the other. Pure."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from evolution.api.run import EvolutionRun
from evolution.api.runtime import Execution
from evolution.plan.graph import Graph, Stage
from evolution.plan.order import Compute, Order, OrderGate, OrderStage, order_stage
from evolution.plan.stage import Kind, sha256

LONGEST_ORDER = 96 * 1024
"""Bytes of JSON: Linux gives one environment variable 128 KiB. What does not fit comes with the next order."""


@dataclass(frozen=True)
class Batch:
    """Stages for one worker."""

    execution: Execution
    stages: tuple[Stage, ...]

    @property
    def first(self) -> Stage:
        return self.stages[0]

    @property
    def fingerprint(self) -> str:
        assert self.first.fingerprint is not None  # a batch begins with a stage that is ready
        return self.first.fingerprint


def joint_recipe(stages: Iterable[Stage]) -> str:
    """Stands for the recipes of all stages of an order: it changes if one of them does."""
    return sha256("".join(stage.recipe for stage in stages).encode())


def batches(graph: Graph, ready: Iterable[Stage], execution: Execution, taken: Collection[str]) -> list[Batch]:
    """The stages to hand out now that `ready` could begin; ids in `taken` are some worker's already.

    With `Stage` each ready stage for itself; with `Round` everything of its round that needs nothing else; with `Run`
    everything up to the end of the run, gate decisions included. An order of several stages waits while another one
    still makes something for it: what it lacks would need an order of its own.
    """
    if execution == "Stage":
        return [Batch(execution, (stage,)) for stage in ready]
    found: list[Batch] = []
    gone = set(taken)
    for stage in ready:
        if stage.id in gone:
            continue
        if _waits_for_others(graph, stage, execution, gone):
            continue
        together = _together(graph, stage, execution, gone)
        gone |= {other.id for other in together}
        found.append(Batch(execution, tuple(together)))
    return found


def _waits_for_others(graph: Graph, first: Stage, execution: Execution, taken: Collection[str]) -> bool:
    return any(
        source.digest is None and source.stage in taken
        for stage in graph.stages
        if _may_follow(stage, first, execution) and stage.id not in taken
        for source in stage.inputs.values()
    )


def _may_follow(stage: Stage, first: Stage, execution: Execution) -> bool:
    if stage.done or stage.kind is Kind.PUBLISH:
        return False
    return execution == "Run" or (stage.round == first.round and not stage.tentative)


def _together(graph: Graph, first: Stage, execution: Execution, taken: Collection[str]) -> list[Stage]:
    """`first`, and what can follow it in the same order, in the order of the graph."""
    chosen = [first]
    ids = {first.id}
    for stage in graph.stages:
        if stage.id in ids or stage.id in taken or not _may_follow(stage, first, execution):
            continue
        if all(source.digest is not None or source.stage in ids for source in stage.inputs.values()):
            chosen.append(stage)
            ids.add(stage.id)
    return chosen


def make_order(
    run: EvolutionRun,
    run_id: str,
    store: str,
    graph: Graph,
    batch: Batch,
    *,
    shards: int = 1,
    attempt: int = 1,
    compute: Compute = Compute(),  # noqa: B008 (immutable)
) -> Order:
    """The order for `batch`, cut where it would grow too long for an environment variable."""
    chosen: list[OrderStage] = []
    length = 0
    earlier: frozenset[str] = frozenset()
    for stage in batch.stages:
        told = order_stage(stage, earlier, attempt)
        length += len(told.to_json())
        if chosen and length > LONGEST_ORDER:
            break
        chosen.append(told)
        earlier |= {stage.id}
    return Order(
        run=run_id,
        store=store,
        model=run.spec.model.uri,
        stages=tuple(chosen),
        compute=compute,
        shards=shards if batch.first.kind is Kind.GENERATE and batch.execution == "Stage" else 1,
        gate=OrderGate(gate=run.spec.gate, metric=run.spec.gate_metric, verdict=graph.verdict)
        if batch.execution == "Run"
        else None,
    )
