"""What each round cost, and by how much it raised the score. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from evolution.report.partition import MILLISECONDS_PER_HOUR, Partition


@dataclass(frozen=True)
class RoundGain:
    round: int
    """0 is what comes before the first round."""
    held: int
    """Milliseconds in the unit of the partition; 0 where all was there already."""
    price: float | None
    """None without a price per GPU-hour, or without a GPU."""
    gain: float | None
    """How much better its score is than that of the round before."""
    per_hour: float | None


def round_gains(time: Partition, means: Mapping[int, float], gpu_price: float | None) -> tuple[RoundGain, ...]:
    """Of every round that held something or has a score; `means` has the score of each round that has one."""
    return tuple(
        _of(round_, time.by_round.get(round_, 0), _gain(means, round_), price(time, gpu_price, round_))
        for round_ in sorted({*time.by_round, *means})
    )


def whole_gain(time: Partition, means: Mapping[int, float], best: int | None) -> float | None:
    """What the best round gained over the base model, for each hour held in the whole run."""
    if best is None or 0 not in means or best not in means or not time.held:
        return None
    return (means[best] - means[0]) / time.hours


def price(time: Partition, gpu_price: float | None, round_: int | None = None) -> float | None:
    """Of a round, or of all that was held."""
    if gpu_price is None or time.unit != "GPU":
        return None
    held = time.held if round_ is None else time.by_round.get(round_, 0)
    return gpu_price * held / MILLISECONDS_PER_HOUR


def _of(round_: int, held: int, gain: float | None, cost: float | None) -> RoundGain:
    per_hour = gain * MILLISECONDS_PER_HOUR / held if gain is not None and held else None
    return RoundGain(round_, held, cost, gain, per_hour)


def _gain(means: Mapping[int, float], round_: int) -> float | None:
    return means[round_] - means[round_ - 1] if round_ in means and round_ - 1 in means else None
