"""How long texts are, in tokens: what is kept does not grow with their number."""

import math
from collections import Counter
from dataclasses import dataclass, field

QUANTILES = (0.1, 0.5, 0.9)


@dataclass
class Lengths:
    """Counts how often each length came."""

    _counts: Counter[int] = field(default_factory=Counter)

    def add(self, tokens: int) -> None:
        self._counts[tokens] += 1

    def quantiles(self) -> dict[str, float]:
        """By name, linear between the two lengths next to it (as NumPy has them); nothing if there is no length."""
        last = self._counts.total() - 1
        return {str(q): self._at(q * last) for q in QUANTILES} if last >= 0 else {}

    def _at(self, position: float) -> float:
        below, above = self._length(math.floor(position)), self._length(math.ceil(position))
        return round(below + (above - below) * (position - math.floor(position)), 1)

    def _length(self, rank: int) -> int:
        """The length with so many before it, the shortest first."""
        for length, count in sorted(self._counts.items()):
            if rank < count:
                return length
            rank -= count
        raise IndexError(rank)
