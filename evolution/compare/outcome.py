"""What came out of a comparison: every arm's score after every round, and how far it is from the baseline arm's."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from statistics import fmean

from evolution.compare.bootstrap import PairedBootstrap
from evolution.compare.stages import Cost, cost
from evolution.plan.graph import Graph
from evolution.store.artifacts import Artifacts

Scores = Mapping[str, float]
"""Score of every question's answer, by the question's id."""
Key = tuple[str, int]
"""An arm and a seed."""
Bootstraps = Callable[[int, int], PairedBootstrap]
"""For so many questions and seeds."""


@dataclass(frozen=True)
class Difference:
    """An arm less the baseline arm, paired by question and seed, over the seeds that both have."""

    mean: float
    low: float
    high: float
    better: int
    """Seeds on which the arm's mean is higher."""
    seeds: int

    @property
    def sure(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Standing:
    """An arm after one round, 0 being the model before any training."""

    by_seed: Mapping[int, float]
    """Mean score over the questions."""
    difference: Difference | None
    """None for the baseline arm, and where it has no seed in common with it."""

    @property
    def mean(self) -> float:
        return fmean(self.by_seed.values())


@dataclass(frozen=True)
class ArmOutcome:
    name: str
    rounds: Mapping[int, Standing]
    complete: bool
    """On some seed; false where all of its runs have failed or are not done."""
    cost: Cost
    """Of all its stages, as if no other arm had been there."""


@dataclass(frozen=True)
class Comparison:
    metric: str
    seeds: tuple[int, ...]
    baseline: str
    arms: tuple[ArmOutcome, ...]
    cost: Cost
    """Of all arms, stages that several share counted once."""

    @property
    def last_round(self) -> int | None:
        """The last round that every complete arm has on some seed, before that every arm; None: nothing yet."""
        arms = [arm for arm in self.arms if arm.complete] or self.arms
        return min((max(arm.rounds) for arm in arms if arm.rounds), default=None)


@dataclass
class _Predictions:
    """Scores of every evaluation; what several runs share is read once."""

    artifacts: Artifacts
    metric: str
    _read: dict[str, Scores] = field(default_factory=dict)

    def of(self, graph: Graph, round_: int) -> Scores | None:
        stage = graph.stage(f"r{round_}-evaluate")
        if stage is None or stage.manifest is None:
            return None
        digest = stage.manifest.outputs["predictions"].digest
        if digest not in self._read:
            with self.artifacts.fetch(digest).open("rb") as file:
                rows = map(json.loads, file)
                self._read[digest] = {row["id"]: float(row["scores"][self.metric]) for row in rows}
        return self._read[digest]


def outcome(graphs: Mapping[Key, Graph], artifacts: Artifacts, metric: str, baseline: str) -> Comparison:
    """Compare the runs behind `graphs`, in their order, as far as they are evaluated.

    Raises:
        ArtifactDamaged: an evaluation's predictions are missing or damaged.
        StoreError: the store cannot be read.
    """
    arms = list(dict.fromkeys(arm for arm, _ in graphs))
    seeds = tuple(dict.fromkeys(seed for _, seed in graphs))
    predictions = _Predictions(artifacts, metric)
    bootstrap = cache(PairedBootstrap)
    outcomes = []
    for arm in arms:
        rounds: dict[int, Standing] = {}
        own = {seed: graphs[arm, seed] for seed in seeds if (arm, seed) in graphs}
        for round_ in sorted({stage.round for graph in own.values() for stage in graph.stages}):
            scores = _by_seed(predictions, own, round_)
            if not scores:
                continue
            other = _by_seed(predictions, {s: graphs[baseline, s] for s in scores if (baseline, s) in graphs}, round_)
            rounds[round_] = Standing(
                by_seed={seed: fmean(found.values()) for seed, found in scores.items()},
                difference=_difference(scores, other, bootstrap) if arm != baseline and other else None,
            )
        outcomes.append(ArmOutcome(arm, rounds, any(graph.complete for graph in own.values()), cost(own.values())))
    return Comparison(metric, seeds, baseline, tuple(outcomes), cost(graphs.values()))


def _by_seed(predictions: _Predictions, graphs: Mapping[int, Graph], round_: int) -> dict[int, Scores]:
    found = {seed: predictions.of(graph, round_) for seed, graph in graphs.items()}
    return {seed: scores for seed, scores in found.items() if scores}


def _difference(arm: Mapping[int, Scores], other: Mapping[int, Scores], bootstrap: Bootstraps) -> Difference:
    seeds = [seed for seed in arm if seed in other]
    questions = sorted(arm[seeds[0]])
    differences = [[arm[seed][id_] - other[seed][id_] for id_ in questions] for seed in seeds]
    means = [fmean(row) for row in differences]
    low, high = bootstrap(len(questions), len(seeds)).interval(differences)
    return Difference(fmean(means), low, high, better=sum(mean > 0 for mean in means), seeds=len(seeds))
