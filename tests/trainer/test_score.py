import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from parity.naive import mean_loss
from stages import SCORE, Bench, pair

from evolution.plan.stage import SEMANTICS, Kind
from evolution_trainer import loss_cache, losses, score
from evolution_trainer.loss_cache import opened_cache
from evolution_trainer.losses import Losses
from evolution_trainer.model import ModelSession
from evolution_trainer.preemption import Preempted
from evolution_trainer.score import Score, scored
from evolution_trainer.spans import Span, default_measure

WORDS = ("seven", "network", "切片", "alarm", "licence", "<|im_end|>", "is", "the")
PAIRS = [
    pair(i, f"What {' '.join(WORDS[: i % 8])} {i}?", " ".join(WORDS[(i * k) % 8] for k in range(1, 2 + i % 9)))
    for i in range(40)
] + [pair(40, "Which letter?", "x"), pair(41, "One token?", "7")]


def naive(session: ModelSession, question: str, answer: str) -> tuple[float, float]:
    """Mean losses of the answer after its question and alone."""
    chat, model = session.chat, session.base
    tokens = chat.plain(answer)
    return mean_loss(model, chat.prompt(question), tokens), mean_loss(model, chat.assistant_header, tokens)


def scores_of(session: ModelSession, folder: Path, pairs: Sequence[dict[str, Any]]) -> dict[str, Score]:
    """Scores by id, computed without any knowledge from before."""
    folder.mkdir()
    with session.adapted(None) as model, opened_cache(folder / "own", None) as cache:
        return dict(scored(Losses(session, model, cache), pairs, default_measure(session.chat, 256)))


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of spans that went through the model, batch by batch."""
    counts: list[int] = []
    batch = Losses._batch

    def watch(self: Losses, spans: Sequence[Span], shape: losses.Shape) -> list[float]:
        counts.append(len(spans))
        return batch(self, spans, shape)

    monkeypatch.setattr(Losses, "_batch", watch)
    return counts


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


def test_scores_are_the_same_to_the_last_bit_whatever_is_scored_along_with_them(
    session: ModelSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = scores_of(session, tmp_path / "together", PAIRS)
    backwards = scores_of(session, tmp_path / "backwards", PAIRS[::-1])
    monkeypatch.setattr(score, "WINDOW", 3)
    apart = scores_of(session, tmp_path / "apart", PAIRS)
    assert together == backwards == apart


def test_logits_are_in_memory_for_one_chunk_of_positions_however_long_the_answers(
    session: ModelSession, tmp_path: Path
) -> None:
    largest = 0

    def watch(_module: object, _inputs: object, logits: torch.Tensor) -> None:
        nonlocal largest
        largest = max(largest, logits.numel() // logits.shape[-1])

    scores_of(session, tmp_path / "sample", PAIRS[:1])
    hook = session.base.get_output_embeddings().register_forward_hook(watch)
    try:
        scores_of(session, tmp_path / "long", [pair(1, "Why?", "seven " * 100), *PAIRS])
    finally:
        hook.remove()
    assert largest == losses.HEAD_CHUNK["cpu"]


def test_a_span_that_occurs_again_is_computed_once(bench: Bench, computed: list[int]) -> None:
    """The first two pairs are equal; the third has the same answer, whose loss alone is known then."""
    pairs = [pair(1, "Which letter?", "x"), pair(2, "Which letter?", "x"), pair(3, "What else?", "x")]
    rows = bench.do(score, SCORE, pairs=bench.put(pairs)).rows("scores")
    assert sum(computed) == 3
    assert rows[0]["ifd"] == rows[1]["ifd"] != rows[2]["ifd"]
    assert len({row["lossAlone"] for row in rows}) == 1


def test_within_a_stage_nothing_is_computed_twice_however_far_apart(
    bench: Bench, computed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score, "WINDOW", 2)
    bench.do(score, SCORE, pairs=bench.put([PAIRS[i % 4] | {"id": f"{i}"} for i in range(40)]))
    assert sum(computed) <= 8


def test_a_later_round_computes_only_what_is_new_and_gives_the_same_bytes(bench: Bench, computed: list[int]) -> None:
    model = "a" * 64
    bench.do(score, SCORE, pairs=bench.put(PAIRS[:30]), model=model)
    before = sum(computed)
    pairs = bench.put(PAIRS[10:35])
    again = bench.do(score, SCORE, pairs=pairs, model=model)
    assert 0 < sum(computed) - before <= 10
    assert again.digest("scores") == bench.do(score, SCORE, pairs=pairs).digest("scores")


def test_another_models_losses_are_not_taken(bench: Bench, computed: list[int]) -> None:
    pairs = bench.put(PAIRS[:5])
    bench.do(score, SCORE, pairs=pairs, model="a" * 64)
    before = sum(computed)
    bench.do(score, SCORE, pairs=pairs, model="b" * 64)
    assert sum(computed) == 2 * before


@pytest.mark.parametrize("other", ["processor", "transformers", "meaning"])
def test_losses_that_were_computed_otherwise_are_not_taken(
    bench: Bench, computed: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, other: str
) -> None:
    """Machines of a cluster may share the folder, and a folder outlives an upgrade."""
    pairs, model = bench.put(PAIRS[:5]), "a" * 64
    bench.do(score, SCORE, pairs=pairs, model=model)
    before = sum(computed)
    if other == "processor":
        (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Another 9000\n")
        monkeypatch.setattr(loss_cache, "CPU_INFO", tmp_path / "cpuinfo")
    elif other == "transformers":
        monkeypatch.setattr("transformers.__version__", "6.0")
    else:
        monkeypatch.setitem(SEMANTICS, Kind.SCORE, SEMANTICS[Kind.SCORE] + 1)
    bench.do(score, SCORE, pairs=pairs, model=model)
    assert sum(computed) == 2 * before


def test_a_damaged_cache_costs_time_only(bench: Bench) -> None:
    pairs, model = bench.put(PAIRS[:5]), "a" * 64
    first = bench.do(score, SCORE, pairs=pairs, model=model)
    [file] = (bench.artifacts.cache / "losses").iterdir()
    for damaged in (b"not a database " * 100, file.read_bytes()[: file.stat().st_size // 2]):
        file.write_bytes(damaged)
        again = bench.do(score, SCORE, pairs=pairs, model=model)
        assert again.digest("scores") == first.digest("scores")


@pytest.mark.parametrize("batches", [0, 1, 3])
def test_an_interrupted_worker_s_losses_are_not_computed_again(
    bench: Bench, computed: list[int], monkeypatch: pytest.MonkeyPatch, batches: int
) -> None:
    pairs = bench.put(PAIRS)
    whole = bench.do(score, SCORE, pairs=pairs)
    everything = sum(computed)
    computed.clear()
    watched = Losses._batch

    def preempted(self: Losses, spans: Sequence[Span], shape: losses.Shape) -> list[float]:
        if len(computed) == batches:
            raise Preempted
        return watched(self, spans, shape)

    with monkeypatch.context() as patch:
        patch.setattr(Losses, "_batch", preempted)
        with pytest.raises(Preempted):
            bench.do(score, SCORE, pairs=pairs)
    resumed = bench.do(score, SCORE, pairs=pairs)
    assert sum(computed) == everything
    assert resumed.digest("scores") == whole.digest("scores")
    assert resumed.metrics == whole.metrics


def test_tokens_and_operations_are_those_of_what_was_computed(bench: Bench, session: ModelSession) -> None:
    twice = [PAIRS[3], PAIRS[3] | {"id": "again"}]
    stage = bench.stage(SCORE, pairs=bench.put(twice))
    score.run(stage)
    chat, answer = session.chat, session.chat.plain(PAIRS[3]["answer"])
    tokens = len(chat.prompt(PAIRS[3]["question"])) + len(chat.assistant_header) + 2 * len(answer)
    assert stage.usage.tokens_in == tokens
    assert stage.usage.flops == 2.0 * session.base.num_parameters() * tokens


@pytest.fixture
def halving(session: ModelSession) -> Iterator[ModelSession]:
    yield session
    session.halvings = 0


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_memory_that_runs_out_halves_the_batches_and_the_scores_stay(
    halving: ModelSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    plenty = scores_of(halving, tmp_path / "plenty", PAIRS)
    batch, shapes = Losses._batch, []

    def scarce(self: Losses, spans: Sequence[Span], shape: losses.Shape) -> list[float]:
        if shape.rows * shape.length > 200:
            raise error
        shapes.append(shape)
        return batch(self, spans, shape)

    monkeypatch.setattr(Losses, "_batch", scarce)
    found = scores_of(halving, tmp_path / "scarce", PAIRS)
    assert halving.halvings == 3
    assert shapes
    assert [s.ifd for s in found.values()] == pytest.approx([s.ifd for s in plenty.values()], abs=1e-6)


def test_an_error_that_has_nothing_to_do_with_memory_is_not_tried_again(
    session: ModelSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> list[float]:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(Losses, "_batch", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        scores_of(session, tmp_path / "broken", PAIRS)
    assert session.halvings == 0


def test_a_padded_row_is_at_most_an_eighth_padding(session: ModelSession, tmp_path: Path) -> None:
    with opened_cache(tmp_path / "own", None) as cache:
        found = Losses(session, session.base, cache)
        for tokens in range(1, 5000):
            shape = found._shape(tokens)
            assert tokens <= shape.length <= tokens * 9 / 8
            assert shape.rows * shape.length <= max(losses.TOKEN_BUDGET["cpu"], shape.length)


def test_a_loss_that_is_no_number_leaves_the_pair_without_score(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Losses, "_batch", lambda _self, spans, _shape: [math.nan] * len(spans))
    done = bench.do(score, SCORE, pairs=bench.put(PAIRS[:3]))
    assert done.metrics["undefined"] == {"NotFinite": 3}
    assert done.metrics["quantiles"] == []
    assert done.metrics["ifd"] == {}


def test_where_it_is_undefined_a_score_is_null_with_a_reason(bench: Bench) -> None:
    pairs = [pair(1), pair(2) | {"answer": " .  "}, pair(3, "long " * 200), pair(4)]
    done = bench.do(score, SCORE, pairs=bench.put(pairs))
    rows = done.rows("scores")
    assert [row["reason"] for row in rows] == ["", "EmptyAnswer", "TooLong", ""]
    assert [row["ifd"] is None for row in rows] == [False, True, True, False]
    assert done.metrics["pairs"] == 4
    assert done.metrics["scored"] == 2
    assert done.metrics["undefined"] == {"EmptyAnswer": 1, "TooLong": 1}
    assert len(done.metrics["quantiles"]) == 5
    low, high = sorted(row["ifd"] for row in rows if row["ifd"] is not None)
    assert done.metrics["ifd"] == pytest.approx({str(q): low + q * (high - low) for q in (0.1, 0.5, 0.9)}, abs=1e-6)


def test_under_the_reference_rules_an_undefined_score_is_one(bench: Bench) -> None:
    rows = bench.do(score, {**SCORE, "rules": "Reference"}, pairs=bench.put([pair(1), pair(2) | {"answer": ""}])).rows(
        "scores"
    )
    assert rows[1]["ifd"] == 1.0
    assert rows[1]["reason"] == "EmptyAnswer"
    assert rows[0]["ifd"] != 1.0


def test_a_model_that_does_more_to_its_logits_than_its_head_is_scored_through_all_of_it(
    session: ModelSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As models with soft-capping do: the head alone would give another number."""
    base = session.base
    whole = base.forward

    def capped(*arguments: object, **named: object) -> object:
        output = whole(*arguments, **named)
        output.logits = 3 * torch.tanh(output.logits / 3)
        return output

    monkeypatch.setattr(base, "forward", capped)
    [found] = scores_of(session, tmp_path / "capped", PAIRS[5:6]).values()
    loss, alone = naive(session, PAIRS[5]["question"], PAIRS[5]["answer"])
    assert found.ifd == pytest.approx(loss / alone, abs=1e-6)
    assert math.isfinite(loss)


def test_scoring_tells_how_far_it_is(bench: Bench) -> None:
    bench.do(score, SCORE, pairs=bench.put(PAIRS))
    assert {phase for phase, _, _ in bench.progress} == {"pairs"}
    assert bench.progress[-1] == ("pairs", len(PAIRS), len(PAIRS))
    assert [done for _, done, _ in bench.progress] == sorted(done for _, done, _ in bench.progress)
