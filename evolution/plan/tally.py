"""What one worker has spent, by kind of stage, and what came out: its last words, and part of its progress.

Whole milliseconds, so that sums are exact. Every moment since `started_at` that the worker can tell of is in exactly
one field of one `Spending`; what comes before and after, only those who hold its GPUs know (`evolution.ledger`).
"""

from dataclasses import asdict, dataclass
from typing import Self

from evolution.plan.manifest import Manifest, Record, Timings, Usage
from evolution.plan.stage import Kind


@dataclass(frozen=True, slots=True)
class Spending:
    """Of one worker on stages of one kind. An operator keeps many of these: they are small."""

    productive: int = 0
    """Milliseconds of work on stages (or shares of stages) that this worker committed."""
    load: int = 0
    """Milliseconds in which it read the model for them."""
    checkpoint: int = 0
    io: int = 0
    idle: int = 0
    saved: int = 0
    """Milliseconds of work on the stage that it did not finish, up to its last checkpoint."""
    wasted: int = 0
    """Milliseconds on stages that it did not commit, without what is `saved`."""
    prompt_tokens: int = 0
    """Tokens that the model read in committed stages other than training."""
    generated_tokens: int = 0
    trained_tokens: int = 0
    kept: int = 0
    """Rows of the committed stages: pairs, scores, training rows, predictions."""
    rejected: int = 0
    bytes: int = 0
    """Size of the committed outputs."""

    @property
    def milliseconds(self) -> int:
        return self.productive + self.load + self.checkpoint + self.io + self.idle + self.saved + self.wasted

    @property
    def outputs(self) -> "Spending":
        """What came out alone."""
        return Spending(
            prompt_tokens=self.prompt_tokens,
            generated_tokens=self.generated_tokens,
            trained_tokens=self.trained_tokens,
            kept=self.kept,
            rejected=self.rejected,
            bytes=self.bytes,
        )

    def __add__(self, other: "Spending") -> "Spending":
        mine, its = asdict(self), asdict(other)
        return Spending(**{name: value + its[name] for name, value in mine.items()})


class Tally(Record):
    """Of one worker, from its start to now, as if it ended now."""

    worker: str = ""
    """Name of the pod; on a laptop an invented name."""
    started_at: str = ""
    """RFC 3339 with milliseconds, UTC: when its process could begin to count."""
    gpus: int = 0
    """GPUs that it sees."""
    unfinished: str = ""
    """Fingerprint of the stage whose work is `saved`; empty if nothing is."""
    spent: dict[Kind, Spending] = {}

    @property
    def milliseconds(self) -> int:
        return sum(spending.milliseconds for spending in self.spent.values())

    def adding(self, kind: Kind, spending: Spending, unfinished: str = "") -> Self:
        """With what was spent on one more stage."""
        spent = {**self.spent, kind: self.spent.get(kind, Spending()) + spending}
        return self.model_copy(update={"spent": spent, "unfinished": unfinished})


def spent_on_committed(manifest: Manifest) -> Spending:
    """Of the worker that committed a stage alone, with the timings and usage of its manifest."""
    return spent(manifest.timings, manifest.usage, manifest.kind) + came_out(manifest)


def spent(timings: Timings, usage: Usage, kind: Kind) -> Spending:
    """On a stage, or a share of one, that was committed."""
    training = kind is Kind.TRAIN
    return Spending(
        productive=_milliseconds(timings.work),
        load=_milliseconds(timings.load),
        checkpoint=_milliseconds(timings.checkpoint),
        io=_milliseconds(timings.io),
        idle=_milliseconds(timings.idle),
        prompt_tokens=0 if training else usage.tokens_in,
        generated_tokens=usage.tokens_out,
        trained_tokens=usage.tokens_in if training else 0,
    )


def came_out(manifest: Manifest) -> Spending:
    """The outputs of a committed stage."""
    rows = {Kind.GENERATE: "pairs", Kind.SCORE: "scores", Kind.EVALUATE: "predictions"}
    main = manifest.outputs.get(rows.get(manifest.kind, ""))
    trained = manifest.metrics.get("rows") if manifest.kind is Kind.TRAIN else None
    rejects = manifest.outputs.get("rejects")
    return Spending(
        kept=trained if isinstance(trained, int) else main.count if main else 0,
        rejected=rejects.count if rejects else 0,
        bytes=sum(output.size for output in manifest.outputs.values()),
    )


def spent_in_vain(timings: Timings, saved: float = 0.0) -> Spending:
    """On a stage that was not committed, of whose work `saved` seconds are in a checkpoint."""
    total, kept = _milliseconds(timings.total), _milliseconds(saved)
    return Spending(saved=min(kept, total), wasted=max(total - kept, 0))


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
