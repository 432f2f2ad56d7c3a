"""The stage `Score`: how much a question helps the base model to its answer (IFD, instruction-following difficulty).

IFD = mean loss of the answer's tokens after the question / mean loss of the same tokens without it. Near 1: the
question is no help, the pair is hard; near 0: the question all but gives the answer away. (Cherry LLM, arXiv
2308.12032.)
"""

import math
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import JsonValue

from evolution.api.run import Preset
from evolution.plan.manifest import Record
from evolution_trainer.lengths import QUANTILES
from evolution_trainer.loss_cache import file_name, opened_cache
from evolution_trainer.losses import Losses
from evolution_trainer.rows import Row, count_rows, read_rows, windows
from evolution_trainer.spans import Measure, Measured, Span, default_measure, reference_measure
from evolution_trainer.stage import Output, Result, StageRun

WINDOW = 1024
"""Pairs that are in memory at once."""


@dataclass(frozen=True)
class Score:
    """IFD of a pair, or why it has none; losses are means per token, in nats."""

    ifd: float | None
    reason: str = ""
    loss: float | None = None
    loss_alone: float | None = None
    tokens: int = 0

    def row(self, id_: str) -> dict[str, JsonValue]:
        return {
            "id": id_,
            "ifd": self.ifd,
            "reason": self.reason,
            "loss": self.loss,
            "lossAlone": self.loss_alone,
            "tokens": self.tokens,
        }


class ScoreParameters(Record):
    rules: Preset
    max_tokens: int


def run(stage: StageRun) -> Result:
    """Inputs: pairs, model. Output: scores, in the order of the pairs.

    What an interrupted worker has computed is taken over from its journal, span by span.
    """
    pairs, session = stage.input("pairs"), stage.session
    parameters = ScoreParameters.model_validate(stage.parameters)
    total = count_rows(pairs)
    longest = min(parameters.max_tokens, session.window)
    reference = parameters.rules == "Reference"
    measure = reference_measure(session.chat, longest) if reference else default_measure(session.chat, longest)
    values = array("d")
    undefined: Counter[str] = Counter()
    with (
        session.adapted(None) as model,
        opened_cache(stage.scratch / "losses.sqlite3", _shared_cache(stage)) as cache,
        stage.journal("losses") as journal,
        stage.rows_out("scores") as scores,
    ):
        cache.restore((row["span"], row["loss"]) for row in read_rows(journal.path))
        before = min(total, journal.count // 2)  # about so many pairs an interrupted worker has left
        stage.progress("pairs", before, total)
        parameters_of_model = model.num_parameters()

        def on_computed(spans: Sequence[Span], losses: dict[str, float]) -> None:
            tokens = sum(len(span.ids) for span in spans)
            stage.usage.tokens_in += tokens
            stage.usage.flops += 2.0 * parameters_of_model * tokens
            journal(*({"span": key, "loss": loss} for key, loss in losses.items() if math.isfinite(loss)))

        losses = Losses(session, model, cache, on_computed)
        for id_, score in scored(
            losses, read_rows(pairs), measure, lambda n: stage.progress("pairs", max(before, n), total)
        ):
            if score.ifd is None:
                undefined[score.reason] += 1
            else:
                values.append(score.ifd)
            scores((_as_reference(score) if reference else score).row(id_))
    quartiles = _quantiles(values, [0, 0.25, 0.5, 0.75, 1])
    return Result(
        outputs={"scores": Output(stage.scratch / "scores.jsonl", scores.count)},
        metrics={
            "pairs": total,
            "scored": len(values),
            "undefined": dict(sorted(undefined.items())),
            "quantiles": [*quartiles],
            "ifd": dict(zip(map(str, QUANTILES), _quantiles(values, QUANTILES), strict=False)),
        },
    )


def _quantiles(values: "array[float]", at: Sequence[float]) -> list[float]:
    return [round(float(q), 6) for q in np.quantile(values, at)] if values else []


def _shared_cache(stage: StageRun) -> Path | None:
    """Where workers of this machine keep the losses under this model; None if its content is not known."""
    digest = stage.inputs.get("model")
    return stage.artifacts.cache / "losses" / file_name(digest, stage.session.device) if digest else None


def scored(
    losses: Losses,
    pairs: Iterable[Row],
    measure: Measure,
    on_done: Callable[[int], None] = lambda _: None,
) -> Iterator[tuple[str, Score]]:
    """Id and score of every pair, in order. `on_done` hears how many pairs are done so far."""
    before = 0
    for window in windows(pairs, WINDOW):
        measured = measure(window)
        spans = [span for m in measured if not m.reason for span in (m.conditional, m.alone)]
        sums = iter(losses.of(spans, _half(before, on_done)))
        for row, m in zip(window, measured, strict=True):
            yield row["id"], Score(None, m.reason) if m.reason else _score(m, next(sums), next(sums))
        before += len(window)
        on_done(before)


def _half(before: int, on_done: Callable[[int], None]) -> Callable[[int], None]:
    """From spans done to pairs done, of which each has two."""
    return lambda spans: on_done(before + spans // 2)


def _score(measured: Measured, conditional: float, alone: float) -> Score:
    tokens = measured.conditional.scored
    loss, loss_alone = conditional / tokens, alone / measured.alone.scored
    if not (math.isfinite(loss) and math.isfinite(loss_alone)):
        return Score(None, "NotFinite", tokens=tokens)
    if loss_alone == 0:
        return Score(None, "ZeroLoss", loss, loss_alone, tokens)
    return Score(loss / loss_alone, "", loss, loss_alone, tokens)


def _as_reference(score: Score) -> Score:
    return score if score.ifd is not None else Score(1.0, score.reason, score.loss, score.loss_alone, score.tokens)
