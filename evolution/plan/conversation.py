"""The lines between `evolve chat` and the process that holds the model."""

from evolution.plan.manifest import Record


class Participants(Record):
    """The first line to the process: who is asked."""

    store: str
    model: str
    """Location of the base model."""
    model_digest: str
    adapters: dict[str, str | None]
    """Digest of the adapter by the name that its answers carry; None is the bare model."""
    max_tokens: int


class Question(Record):
    question: str


class Reply(Record):
    """What each participant answers, or why none can."""

    answers: dict[str, str] = {}
    error: str = ""
