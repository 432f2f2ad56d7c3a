import math

import pytest
import torch
from stages import SCORE, Bench, pair

from evolution_trainer import score
from evolution_trainer.model import ModelSession
from evolution_trainer.score import default_measure, scored

WORDS = ("seven", "network", "切片", "alarm", "licence", "<|im_end|>", "is", "the")
PAIRS = [
    pair(i, f"What {' '.join(WORDS[: i % 8])} {i}?", " ".join(WORDS[(i * k) % 8] for k in range(1, 2 + i % 9)))
    for i in range(40)
] + [pair(40, "Which letter?", "x"), pair(41, "One token?", "7")]


def naive(session: ModelSession, question: str, answer: str) -> tuple[float, float]:
    """Mean losses of the answer after its question and alone, one pair at a time, in the plainest way."""
    chat, tokens = session.chat, session.chat.plain(answer)
    losses = []
    for before in (chat.prompt(question), chat.assistant_header):
        with session.adapted(None) as model, torch.no_grad():
            logits = model(input_ids=torch.tensor([before + tokens])).logits[0]
        expected = torch.tensor(tokens)
        log_probabilities = torch.log_softmax(logits[len(before) - 1 : -1].double(), -1)
        losses.append(-log_probabilities[torch.arange(len(tokens)), expected].mean().item())
    return losses[0], losses[1]


def test_scores_equal_those_of_a_scorer_that_takes_one_pair_at_a_time(bench: Bench, session: ModelSession) -> None:
    rows = bench.do(score, SCORE, pairs=bench.put(PAIRS)).rows("scores")
    assert [row["id"] for row in rows] == [row["id"] for row in PAIRS]
    for row, given in zip(rows, PAIRS, strict=True):
        loss, alone = naive(session, given["question"], given["answer"])
        assert row["loss"] == pytest.approx(loss, rel=1e-6)
        assert row["lossAlone"] == pytest.approx(alone, rel=1e-6)
        assert row["ifd"] == pytest.approx(loss / alone, abs=1e-6)
        assert row["tokens"] == len(session.chat.plain(given["answer"]))
    assert min(row["tokens"] for row in rows) == 1


def test_scores_do_not_depend_on_what_is_scored_along_with_them(
    session: ModelSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = default_measure(session.chat, 256)
    with session.adapted(None) as model:
        together = dict(scored(session, model, PAIRS, measure))
        monkeypatch.setattr(score, "TOKEN_BUDGET", {"cpu": 1})
        monkeypatch.setattr(score, "WINDOW", 3)
        apart = dict(scored(session, model, PAIRS, measure))
    assert together.keys() == apart.keys()
    for id_, found in together.items():
        assert found.ifd == pytest.approx(apart[id_].ifd, abs=1e-6)


def test_where_it_is_undefined_a_score_is_null_with_a_reason(bench: Bench) -> None:
    pairs = [pair(1), pair(2) | {"answer": "  "}, pair(3, "long " * 200), pair(4)]
    done = bench.do(score, SCORE, pairs=bench.put(pairs))
    rows = done.rows("scores")
    assert [row["reason"] for row in rows] == ["", "EmptyAnswer", "TooLong", ""]
    assert [row["ifd"] is None for row in rows] == [False, True, True, False]
    assert done.metrics["pairs"] == 4
    assert done.metrics["scored"] == 2
    assert done.metrics["undefined"] == {"EmptyAnswer": 1, "TooLong": 1}
    assert len(done.metrics["quantiles"]) == 5


def test_under_the_reference_rules_an_undefined_score_is_one(bench: Bench) -> None:
    rows = bench.do(score, {**SCORE, "rules": "Reference"}, pairs=bench.put([pair(1), pair(2) | {"answer": ""}])).rows(
        "scores"
    )
    assert rows[1]["ifd"] == 1.0
    assert rows[1]["reason"] == "EmptyAnswer"
    assert rows[0]["ifd"] != 1.0


def test_a_model_that_does_more_to_its_logits_than_its_head_is_scored_through_all_of_it(
    session: ModelSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As models with soft-capping do: the head alone would give another number."""
    base = session.base
    whole = base.forward

    def capped(*arguments: object, **named: object) -> object:
        output = whole(*arguments, **named)
        output.logits = 3 * torch.tanh(output.logits / 3)
        return output

    monkeypatch.setattr(base, "forward", capped)
    measure = default_measure(session.chat, 256)
    with session.adapted(None) as model:
        [(_, found)] = scored(session, model, PAIRS[5:6], measure)
    loss, alone = naive(session, PAIRS[5]["question"], PAIRS[5]["answer"])
    assert found.ifd == pytest.approx(loss / alone, abs=1e-6)
    assert math.isfinite(loss)


def test_scoring_tells_how_far_it_is(bench: Bench) -> None:
    bench.do(score, SCORE, pairs=bench.put(PAIRS))
    assert {phase for phase, _, _ in bench.progress} == {"pairs"}
    assert bench.progress[-1] == ("pairs", len(PAIRS), len(PAIRS))
    assert [done for _, done, _ in bench.progress] == sorted(done for _, done, _ in bench.progress)
