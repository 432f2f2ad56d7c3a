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
from typing import Any

import numpy as np
import torch
from pydantic import JsonValue

from evolution.api.run import Preset
from evolution.plan.manifest import Record
from evolution_trainer.chat import ChatFormat
from evolution_trainer.model import ModelSession
from evolution_trainer.rows import Row, count_rows, read_rows, windows
from evolution_trainer.stage import Output, Result, StageRun

WINDOW = 512
"""Pairs that are in memory at once."""
TOKEN_BUDGET = {"cpu": 1024, "cuda": 16_384}
"""Tokens of a batch, padding included; a CPU gains nothing from larger ones."""
HEAD_CHUNK = {"cpu": 512, "cuda": 4096}
"""Positions for which logits over the whole vocabulary are in memory at once."""


@dataclass(frozen=True)
class Span:
    """A sequence of token ids of which those from `start` on are scored."""

    ids: list[int]
    start: int

    @property
    def scored(self) -> int:
        return max(0, len(self.ids) - self.start)


@dataclass(frozen=True)
class Measured:
    """A pair as token ids: the answer after its question, and the same answer alone; or why there is no score."""

    conditional: Span
    alone: Span
    reason: str = ""


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


Measure = Callable[[str, str], Measured]
"""From question and answer to token ids."""


def run(stage: StageRun) -> Result:
    """Inputs: pairs, model. Output: scores, in the order of the pairs."""
    pairs, session = stage.input("pairs"), stage.session
    parameters = ScoreParameters.model_validate(stage.parameters)
    total = count_rows(pairs)
    longest = min(parameters.max_tokens, session.window)
    reference = parameters.rules == "Reference"
    measure = reference_measure(session.chat, longest) if reference else default_measure(session.chat, longest)
    values = array("d")
    undefined: Counter[str] = Counter()
    with session.adapted(None) as model, stage.rows_out("scores") as scores:
        for id_, score in scored(
            session, model, read_rows(pairs), measure, lambda n: stage.progress("pairs", n, total)
        ):
            if score.ifd is None:
                undefined[score.reason] += 1
            else:
                values.append(score.ifd)
            scores((_as_reference(score) if reference else score).row(id_))
    quantiles = [round(float(q), 6) for q in np.quantile(values, [0, 0.25, 0.5, 0.75, 1])] if values else []
    return Result(
        outputs={"scores": Output(stage.scratch / "scores.jsonl", scores.count)},
        metrics={
            "pairs": total,
            "scored": len(values),
            "undefined": dict(sorted(undefined.items())),
            "quantiles": [*quantiles],
        },
    )


def scored(
    session: ModelSession,
    model: Any,
    pairs: Iterable[Row],
    measure: Measure,
    on_done: Callable[[int], None] = lambda _: None,
) -> Iterator[tuple[str, Score]]:
    """Id and score of every pair, in order. `on_done` hears how many pairs are done so far."""
    before = 0
    for window in windows(pairs, WINDOW):
        measured = [measure(row["question"], row["answer"]) for row in window]
        spans = [span for m in measured if not m.reason for span in (m.conditional, m.alone)]
        finished = 0
        sums: dict[int, float] = {}
        for batch_sums in answer_losses(session, model, spans):
            sums |= batch_sums
            finished = len(sums)
            on_done(before + finished // 2)
        losses = iter([sums[i] for i in range(len(spans))])
        for row, m in zip(window, measured, strict=True):
            yield row["id"], Score(None, m.reason) if m.reason else _score(m, next(losses), next(losses))
        before += len(window)
        on_done(before)


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


def default_measure(chat: ChatFormat, max_tokens: int) -> Measure:
    """The chat prompt of the question, then the answer; alone: the assistant's header, then the same tokens."""

    def measure(question: str, answer: str) -> Measured:
        prompt, header, tokens = chat.prompt(question), chat.assistant_header, chat.plain(answer)
        conditional = Span([*prompt, *tokens], len(prompt))
        alone = Span([*header, *tokens], len(header))
        reason = ""
        if not tokens or not answer.strip():
            reason = "EmptyAnswer"
        elif len(conditional.ids) > max_tokens:
            reason = "TooLong"
        return Measured(conditional, alone, reason)

    return measure


def reference_measure(
    chat: ChatFormat, max_tokens: int, frame: Callable[[str], str] | None = None, alone_frame: str | None = None
) -> Measure:
    """The published code's arithmetic: prefix and answer tokenised as one text and cut at `max_tokens`, the start of
    the answer found from the prefix alone, the text alone cut at `max_tokens` - prefix + 4. `frame` and `alone_frame`
    replace the chat format around the question and before the answer.
    """
    frame = frame or chat.render_prompt
    lead = chat.assistant_header_text if alone_frame is None else alone_frame

    def measure(question: str, answer: str) -> Measured:
        prefix = frame(question)
        before = len(chat.joint(prefix))
        conditional = Span(chat.joint(prefix + answer)[:max_tokens], before)
        room = max_tokens - min(before, max_tokens) + 4
        alone = Span(chat.joint(lead + answer)[:room], len(chat.joint(lead)))
        reason = "" if conditional.scored and alone.scored else ("TooLong" if before >= max_tokens else "EmptyAnswer")
        return Measured(conditional, alone, reason)

    return measure


def answer_losses(session: ModelSession, model: Any, spans: Sequence[Span]) -> Iterator[dict[int, float]]:
    """Sum of the losses of each span's scored tokens, by position in `spans`, batch by batch in order of length.

    Rows are padded on the right and no mask is needed: a causal model never looks at what comes later.
    """
    queue = sorted(range(len(spans)), key=lambda i: (len(spans[i].ids), i))
    project = _projection(model, spans[queue[0]].ids, session.device) if queue else None
    while queue:
        budget = session.budget(TOKEN_BUDGET)
        rows = [queue[0]]
        for row in queue[1:]:
            if (len(rows) + 1) * len(spans[row].ids) > budget:
                break
            rows.append(row)
        try:
            sums = _batch_losses(model, project, [spans[i] for i in rows], session)
        except torch.OutOfMemoryError:
            if len(rows) == 1:
                raise
            session.halve_budget()
            continue
        queue = queue[len(rows) :]
        yield dict(zip(rows, sums, strict=True))


Projection = Callable[[torch.Tensor], torch.Tensor]


def _projection(model: Any, sample: Sequence[int], device: torch.device) -> Projection | None:
    """From hidden states to logits; None if the model does more to its logits than its head (soft-capping, scaling)."""
    ids = torch.tensor([sample[:8]], device=device)
    head: Projection = model.get_output_embeddings()
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits
        same = torch.allclose(
            head(model.base_model(input_ids=ids, use_cache=False)[0]).float(), logits.float(), atol=1e-3
        )
    return head if same else None


def _batch_losses(model: Any, project: Projection | None, spans: Sequence[Span], session: ModelSession) -> list[float]:
    device = session.device
    longest = max(len(span.ids) for span in spans)
    ids = torch.zeros((len(spans), longest), dtype=torch.long)
    for row, span in enumerate(spans):
        ids[row, : len(span.ids)] = torch.tensor(span.ids)
    ids = ids.to(device)
    rows = torch.tensor([row for row, span in enumerate(spans) for _ in range(span.scored)], device=device)
    positions = torch.tensor([p for span in spans for p in range(span.start, len(span.ids))], device=device)
    sums = torch.zeros(len(spans), dtype=torch.float64, device=device)
    with torch.no_grad():
        body = model.base_model if project else model
        # Hidden states, or for models with a head of their own kind the logits themselves.
        states = body(input_ids=ids, use_cache=False)[0]
        for start in range(0, len(rows), HEAD_CHUNK[device.type]):
            chunk = slice(start, start + HEAD_CHUNK[device.type])
            at, position = rows[chunk], positions[chunk]
            before = states[at, position - 1]
            logits = (project(before) if project else before).float()
            losses = torch.nn.functional.cross_entropy(logits, ids[at, position], reduction="none")
            sums.index_add_(0, at, losses.double())
    return [float(total) for total in sums.tolist()]
