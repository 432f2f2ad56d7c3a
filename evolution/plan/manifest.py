"""The record that a finished stage leaves, once and for good: a stage is done if and only if its manifest exists."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, JsonValue
from pydantic.alias_generators import to_camel

from evolution.plan.stage import Kind


class Record(BaseModel):
    """Base of the JSON documents in the store and on the worker's pipe. Unknown fields are ignored."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="ignore")

    def to_json(self) -> bytes:
        return self.model_dump_json(by_alias=True).encode()


class Artifact(Record):
    """One output of a stage."""

    digest: str
    """SHA-256 of the blob; of a tree, of its listing."""
    size: int
    """Bytes; of a tree, of all its files."""
    count: int = 1
    """Rows of a JSON Lines blob, files of a tree."""
    form: Literal["Blob", "Tree"] = "Blob"
    """A tree is a blob that lists files by name, digest and size (`TreeListing`)."""


class TreeFile(Record):
    name: str
    digest: str
    size: int


class TreeListing(Record):
    """Content of the blob behind an artifact of form `Tree`; files sorted by name."""

    files: tuple[TreeFile, ...]


class Timings(Record):
    """Wall seconds of the attempt that committed the stage; see `docs/how-it-is-built.md`."""

    started_at: str = ""
    """RFC 3339, UTC."""
    total: float = 0.0
    load: float = 0.0
    """Reading the model."""
    work: float = 0.0
    checkpoint: float = 0.0
    """Saving and restoring what was done so far."""
    io: float = 0.0
    """Moving artifacts from and to the store."""
    idle: float = 0.0
    """Waiting for somebody else: the store, another worker's download."""
    gpus: int = 0
    """GPUs held meanwhile."""


class Usage(Record):
    """What a stage has taken and given."""

    tokens_in: int = 0
    """Tokens that the model read: prompts, scored texts, training rows (once per pass)."""
    tokens_out: int = 0
    """Tokens that the model wrote."""
    peak_memory: int = 0
    """Bytes: most resident memory of the worker so far."""
    peak_gpu_memory: int = 0
    """Bytes: most memory of one GPU during the stage."""
    flops: float = 0.0
    """Floating-point operations of the model, by the usual estimate from parameters and tokens."""
    mfu: float | None = None
    """Model FLOPs utilisation while it worked: share of the GPUs' peak; null where the peak is not known."""


class Manifest(Record):
    """What `stages/<fingerprint>.json` holds."""

    fingerprint: str
    kind: Kind
    semantics: int
    round: int
    parameters: dict[str, JsonValue]
    inputs: dict[str, str]
    """Digest of every input by name."""
    outputs: dict[str, Artifact]
    metrics: dict[str, JsonValue]
    """Small numbers for people: counts, rejects by reason, losses, scores with their interval."""
    warnings: list[str] = []
    timings: Timings = Timings()
    usage: Usage = Usage()
    versions: dict[str, str] = {}
    """Versions of the libraries that computed the result."""
    attempt: int = 1
    run: str = ""
    """`<name>-<uid8>` of the run whose worker did it, and whose budget it counts against."""

    @property
    def scores(self) -> dict[str, float]:
        """Mean of every metric of an evaluation, 0 to 1; empty for other stages."""
        scores = self.metrics.get("scores")
        if not isinstance(scores, dict):
            return {}
        means = {name: entry.get("mean") for name, entry in scores.items() if isinstance(entry, dict)}
        return {name: float(mean) for name, mean in means.items() if isinstance(mean, int | float)}
