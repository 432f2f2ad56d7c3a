"""The paired bootstrap: against every possible resample of small data, and how often it covers the truth."""

import random
from collections.abc import Sequence
from itertools import product
from statistics import fmean

import pytest

from evolution.compare.bootstrap import GROUPS, PairedBootstrap


def exact(differences: Sequence[Sequence[float]]) -> list[float]:
    """The mean of every resample of seeds and questions, each as likely as any other, sorted."""
    seeds, questions = range(len(differences)), range(len(differences[0]))
    return sorted(
        fmean(differences[s][q] for s in drawn_seeds for q in drawn_questions)
        for drawn_seeds in product(seeds, repeat=len(seeds))
        for drawn_questions in product(questions, repeat=len(questions))
    )


@pytest.mark.parametrize(
    "differences",
    [
        [[0.0, 1.0, 3.0, 7.0, 2.5]],
        [[0.0, 1.0, 0.5, 0.2], [0.3, -1.0, 0.9, 0.1]],
        [[0.1, 0.9, 0.4], [0.2, 0.35, -0.7], [0.0, 0.8, 0.05]],
    ],
)
def test_the_ends_are_those_of_all_possible_resamples(differences: list[list[float]]) -> None:
    low, high = PairedBootstrap(len(differences[0]), len(differences)).interval(differences)
    means = exact(differences)

    def share_below(value: float) -> tuple[float, float]:
        """Of the resamples below `value`, and of those not above it: ties have a rank in between."""
        near = 1e-9
        return sum(m < value - near for m in means) / len(means), sum(m <= value + near for m in means) / len(means)

    for end, wanted in ((low, 0.025), (high, 0.975)):
        least, most = share_below(end)
        assert least - 0.006 <= wanted <= most + 0.006


def test_equal_arms_differ_by_nothing() -> None:
    assert PairedBootstrap(5, 2).interval([[0.0] * 5] * 2) == (0.0, 0.0)


def test_a_difference_that_every_question_has_leaves_no_doubt() -> None:
    low, high = PairedBootstrap(1000, 3).interval([[0.25] * 1000] * 3)
    assert (low, high) == pytest.approx((0.25, 0.25))


def test_the_same_differences_give_the_same_interval() -> None:
    differences = [[random.Random(1).gauss(0, 1) for _ in range(30)]]
    assert PairedBootstrap(30, 1).interval(differences) == PairedBootstrap(30, 1).interval(differences)


def test_seeds_that_disagree_widen_the_interval() -> None:
    bootstrap = PairedBootstrap(50, 2)
    agree = bootstrap.interval([[0.1, 0.3] * 25, [0.1, 0.3] * 25])
    disagree = bootstrap.interval([[-0.1, 0.1] * 25, [0.3, 0.5] * 25])
    assert disagree[0] < 0.0 < agree[0]
    assert agree[1] < 0.3 < disagree[1]


def test_many_questions_in_groups_give_the_interval_of_single_questions() -> None:
    chance = random.Random(3)
    questions = GROUPS * 8 + 7
    row = [chance.choice((-1.0, 0.0, 0.0, 1.0)) for _ in range(questions)]
    low, high = PairedBootstrap(questions, 1).interval([row])
    mean = fmean(row)
    error = (fmean((value - mean) ** 2 for value in row) / questions) ** 0.5
    assert low == pytest.approx(mean - 1.96 * error, abs=0.15 * error)
    assert high == pytest.approx(mean + 1.96 * error, abs=0.15 * error)


@pytest.mark.parametrize(("seeds", "between_seeds", "least"), [(1, 0.0, 0.91), (6, 0.0, 0.93), (6, 0.1, 0.85)])
def test_intervals_cover_the_true_difference(seeds: int, between_seeds: float, least: float) -> None:
    """About 95 in 100, more where seeds agree (drawing them adds doubt), fewer where few seeds disagree much."""
    chance = random.Random(11)
    bootstrap = PairedBootstrap(60, seeds, resamples=400)
    trials, covered = 200, 0
    for _ in range(trials):
        questions = [chance.gauss(0.1, 0.3) for _ in range(60)]
        shifts = [chance.gauss(0.0, between_seeds) for _ in range(seeds)]
        low, high = bootstrap.interval([[q + shift + chance.gauss(0.0, 0.2) for q in questions] for shift in shifts])
        covered += low <= 0.1 <= high
    assert least <= covered / trials <= 0.99
