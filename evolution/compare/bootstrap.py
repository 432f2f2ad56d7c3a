"""How sure a difference between two arms is: the paired bootstrap over questions and seeds."""

import random
from collections.abc import Sequence
from operator import itemgetter

RESAMPLES = 10_000
LEVEL = 0.95
"""Share of the resampled differences inside an interval."""
GROUPS = 250
"""More questions than this are put into so many groups of equal size by lot, and groups are drawn: the interval stays
what it is, and the time does not grow with the questions."""
_SEED = 20261


class PairedBootstrap:
    """Intervals for differences on the same questions and seeds; all of them use the same resamples.

    A resample draws as many seeds and as many questions as there are, each with replacement, and takes every drawn
    question under every drawn seed (Owen 2007, "The pigeonhole bootstrap"). So the interval is about other questions
    and other seeds of the same sort; with one seed, about other questions only.
    """

    def __init__(self, questions: int, seeds: int, resamples: int = RESAMPLES) -> None:
        chance = random.Random(_SEED)
        groups = min(questions, GROUPS)
        order = list(range(questions))
        if groups < questions:
            chance.shuffle(order)
        self._groups = [order[first::groups] for first in range(groups)]
        # One more index than is drawn keeps itemgetter giving a tuple; the last place always holds 0.
        places = list(range(groups))
        self._draws = [itemgetter(groups, *chance.choices(places, k=groups)) for _ in range(resamples)]
        self._seeds = [tuple(sorted(chance.choices(range(seeds), k=seeds))) for _ in range(resamples)]
        sizes = [*(len(group) for group in self._groups), 0]
        self._drawn = [sum(draw(sizes)) * seeds for draw in self._draws]

    def interval(self, differences: Sequence[Sequence[float]]) -> tuple[float, float]:
        """Lower and upper end for the mean of `differences`, which has a row per seed and a number per question."""
        rows = [[*(sum(row[i] for i in group) for group in self._groups), 0.0] for row in differences]
        together = {
            drawn: [sum(column) for column in zip(*(rows[s] for s in drawn), strict=True)] for drawn in {*self._seeds}
        }
        means = sorted(
            sum(draw(together[seeds])) / count
            for draw, seeds, count in zip(self._draws, self._seeds, self._drawn, strict=True)
        )
        outside = (1 - LEVEL) / 2
        last = len(means) - 1
        return means[round(outside * last)], means[round((1 - outside) * last)]
