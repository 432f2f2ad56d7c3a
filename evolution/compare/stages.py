"""The stages of several runs in one store: what they share is done once."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import fmean

from evolution.api.run import EvolutionRunSpec
from evolution.plan.graph import Graph, Stage, unfold
from evolution.plan.manifest import Manifest
from evolution.plan.stage import Kind

LookUp = Callable[[str], Manifest | None]
"""From a fingerprint to the manifest in the store, None if there is none."""


def unfolded(spec: EvolutionRunSpec, known: dict[str, Manifest | None], look_up: LookUp) -> Graph:
    """The graph of `spec` as far as the store has it. Fills `known`, so that runs that share stages ask once."""
    while unknown := (graph := unfold(spec, known)).unknown:
        known |= {fingerprint: look_up(fingerprint) for fingerprint in unknown}
    return graph


@dataclass(frozen=True)
class Amount:
    """How many stages, told apart by what they are to do all the way back to the sources."""

    total: int
    """Of all runs, each counted for itself."""
    distinct: int
    done: int
    """Of the distinct ones."""


def amount(graphs: Iterable[Graph]) -> Amount:
    graphs = list(graphs)
    distinct = _distinct(graphs)
    return Amount(
        total=sum(len(graph.stages) for graph in graphs),
        distinct=len(distinct),
        done=sum(stage.done for stage in distinct.values()),
    )


def seconds_left(graphs: Iterable[Graph]) -> float | None:
    """An estimate from the stages of the same kind that are done; a kind that is not, takes what stages take on
    average. None while nothing is done.
    """
    stages = _distinct(graphs).values()
    took: dict[Kind, list[float]] = {}
    for stage in stages:
        if stage.manifest is not None and stage.kind is not Kind.PREPARE:
            took.setdefault(stage.kind, []).append(stage.manifest.timings.total)
    if not took:
        return None
    usual = fmean(seconds for all_ in took.values() for seconds in all_)
    return sum(fmean(took.get(stage.kind, [usual])) for stage in stages if not stage.done)


@dataclass(frozen=True)
class Cost:
    """Time of finished stages: the worker's seconds, and the seconds of every GPU that it held."""

    seconds: float
    gpu_seconds: float


def cost(graphs: Iterable[Graph]) -> Cost:
    """What the stages of these runs took, stages that several share counted once."""
    timings = [stage.manifest.timings for stage in _distinct(graphs).values() if stage.manifest is not None]
    return Cost(sum(t.total for t in timings), sum(t.total * t.gpus for t in timings))


def _distinct(graphs: Iterable[Graph]) -> dict[str, Stage]:
    """A stage of every recipe; one that is done, where the graphs of several runs are not equally new."""
    found: dict[str, Stage] = {}
    for graph in graphs:
        for stage in graph.stages:
            if stage.done or stage.recipe not in found:
                found[stage.recipe] = stage
    return found
