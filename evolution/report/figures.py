"""What a report shows, as plain values: no HTML, no store."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from evolution.plan.stage import Kind
from evolution.quality import Quality
from evolution.report.gain import RoundGain
from evolution.report.partition import Partition


@dataclass(frozen=True)
class Interval:
    """Mean of a metric over `n` items with its bootstrap interval, each from 0 to 1."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Round:
    """One round, as far as it is done; 0 is the model before any training."""

    round: int
    quality: Quality
    first_loss: float | None
    steps: int | None
    history: int | None
    """Rows of earlier rounds that were trained again."""
    scores: Mapping[str, Interval]
    seconds: Mapping[Kind, float]
    gate: str
    """What the gate made of the round's score."""


@dataclass(frozen=True)
class LossPoint:
    """Mean training loss of a few neighbouring optimizer steps."""

    step: float
    loss: float


@dataclass(frozen=True)
class LossCurve:
    round: int
    steps: int
    points: tuple[LossPoint, ...]


@dataclass(frozen=True)
class Pair:
    """A question that the model asked, with its answer; or why the two were not kept."""

    round: int
    document: str
    question: str
    answer: str
    reject: str = ""
    ifd: float | None = None
    """How much harder the answer is with the question than it would be without; None where it was not scored."""
    ifd_missing: str = ""
    """Why a scored pair has no IFD."""


@dataclass(frozen=True)
class Document:
    text: str
    cut: bool
    """`text` is only the beginning."""


@dataclass(frozen=True)
class Shown:
    """How many rows of how many are on the page."""

    shown: int
    total: int


@dataclass(frozen=True)
class Pairs:
    rows: tuple[Pair, ...]
    documents: Mapping[str, Document]
    """By id, of every document that a pair on the page was written about."""
    kept: Shown
    rejected: Shown


@dataclass(frozen=True)
class Item:
    """A held-out question, and what the model said to it in each round, 0 being the base model."""

    question: str
    answer: str
    predictions: Mapping[int, tuple[str, float]]
    """By round: the prediction and its score on the primary metric."""


@dataclass(frozen=True)
class Predictions:
    rounds: tuple[int, ...]
    items: tuple[Item, ...]
    total: int
    right: float
    """Score on the primary metric from which a prediction counts as right."""


@dataclass(frozen=True)
class Read:
    """An input of a stage."""

    name: str
    stage: str
    output: str
    digest: str | None


@dataclass(frozen=True)
class Left:
    """An output of a stage."""

    name: str
    digest: str
    size: int
    """Bytes."""
    count: int
    """Rows of a blob, files of a tree."""
    form: Literal["Blob", "Tree"]


@dataclass(frozen=True)
class StageLine:
    id: str
    kind: Kind
    round: int
    state: Literal["Done", "Ready", "Waiting", "Undecided"]
    fingerprint: str | None
    reads: tuple[Read, ...]
    leaves: tuple[Left, ...]
    started_at: str
    total: float
    load: float
    work: float
    io: float
    gpus: int
    attempt: int


@dataclass(frozen=True)
class Figures:
    """Everything on the page."""

    name: str
    namespace: str
    state: str
    headline: str
    explanation: str
    """Why the run ended, what it waits for, or how it failed."""
    metrics: tuple[str, ...]
    """The primary one first."""
    best: int | None
    """None while nothing has a score."""
    rounds_wanted: int
    rounds: tuple[Round, ...]
    losses: tuple[LossCurve, ...]
    pairs: Pairs
    predictions: Predictions
    documents: Mapping[str, int]
    """What preparing the documents counted, by what was counted."""
    document_rejects: Mapping[str, int]
    stages: tuple[StageLine, ...]
    warnings: tuple[tuple[str, str], ...]
    """Stage and message."""
    versions: Mapping[str, tuple[str, ...]]
    time: Partition | None
    """None for a run of a version that kept no ledger, and while there was no attempt."""
    gains: tuple[RoundGain, ...]
    gain_per_hour: float | None
    """What the best round gained over the base model, for each GPU-hour (or worker-hour) of the run."""
    gpu_price: float | None
    """Per GPU-hour."""
    price: float | None
    settings: str
    """The effective run file, as YAML."""
    notices: Mapping[str, tuple[str, ...]]
    """By section: what could not be read from the store, and hence is not shown."""
