"""What the data of a round are like, from the manifests of its stages. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from pydantic import JsonValue

from evolution.plan.manifest import Manifest
from evolution.plan.stage import Kind

QUANTILES = ("0.1", "0.5", "0.9")


@dataclass(frozen=True)
class Quality:
    """Of one round. None where the stage that tells is not done, or its manifest is of an older version."""

    round: int
    pairs: int | None = None
    rejects: dict[str, int] = field(default_factory=dict)
    """Questions and answers that were not kept, by reason."""
    duplicates: float | None = None
    """Share of all questions that were rejected, before or after their answer, as equal to an earlier one."""
    coverage: float | None = None
    """Share of the documents with at least one pair."""
    question_tokens: dict[str, float] = field(default_factory=dict)
    """Length of the pairs' questions at the quantiles 0.1, 0.5 and 0.9."""
    answer_tokens: dict[str, float] = field(default_factory=dict)
    ifd: dict[str, float] = field(default_factory=dict)
    """Instruction-following difficulty of the pairs, at the same quantiles."""
    overlap: int | None = None
    """Evaluation questions that were also asked in the round's training pairs."""
    loss: float | None = None
    """Mean of the training's last steps."""


def quality(round_: int, manifests: Iterable[Manifest]) -> Quality:
    """Of the round with these manifests."""
    told = {manifest.kind: manifest.metrics for manifest in manifests}
    generate, score = told.get(Kind.GENERATE, {}), told.get(Kind.SCORE, {})
    rejects = generate.get("rejects")
    by_part = {part: _counts(counts) for part, counts in rejects.items()} if isinstance(rejects, dict) else {}
    reasons: dict[str, int] = {}
    for counts in by_part.values():
        for reason, count in counts.items():
            reasons[reason] = reasons.get(reason, 0) + count
    answered = _count(generate.get("questions"))
    asked = answered + sum(by_part.get("question", {}).values()) if answered is not None else None
    covered = generate.get("coverage")
    return Quality(
        round=round_,
        pairs=_count(generate.get("pairs")),
        rejects=reasons,
        duplicates=_share(reasons.get("Duplicate", 0), asked) if by_part else None,
        coverage=_share(covered.get("covered"), covered.get("documents")) if isinstance(covered, dict) else None,
        question_tokens=_quantiles(generate.get("questionTokens")),
        answer_tokens=_quantiles(generate.get("answerTokens")),
        ifd=_quantiles(score.get("ifd")),
        overlap=_count(told.get(Kind.EVALUATE, {}).get("overlap")),
        loss=_number(told.get(Kind.TRAIN, {}).get("loss")),
    )


def _number(value: JsonValue) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _count(value: JsonValue) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _counts(value: JsonValue) -> dict[str, int]:
    found = {name: _count(count) for name, count in value.items()} if isinstance(value, dict) else {}
    return {name: count for name, count in found.items() if count is not None}


def _share(part: JsonValue, whole: JsonValue) -> float | None:
    of, all_ = _number(part), _number(whole)
    return of / all_ if of is not None and all_ else None


def _quantiles(value: JsonValue) -> dict[str, float]:
    found = {name: _number(value.get(name)) for name in QUANTILES} if isinstance(value, dict) else {}
    return {name: number for name, number in found.items() if number is not None}
