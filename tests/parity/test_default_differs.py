"""What preset Default does where the published code does something else: every row of docs/parity.md."""

import inspect
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from simulated import merged
from stages import EVALUATE, GENERATE, SCORE, TRAIN, Bench, pair

from evolution.api.errors import InvalidRun
from evolution.api.load import run_from_object
from evolution.plan.graph import unfold
from evolution.plan.order import Order, OrderStage
from evolution.plan.stage import Kind
from evolution.plan.worker import ExitCode
from evolution_trainer import evaluate, generate, metrics, score, train
from evolution_trainer.clean import Cleaned, Rejected, clean_answer, clean_question
from evolution_trainer.engine import Reply
from evolution_trainer.metrics import measure
from evolution_trainer.model import ModelSession
from evolution_trainer.selection import select, select_as_reference
from evolution_trainer.spans import default_measure, reference_measure
from evolution_trainer.training_rows import tokenised

BY_SCORE = ("Hard", "Easy", "Even")
RUN: dict[str, Any] = {
    "apiVersion": "selfevolution.io/v1alpha1",
    "kind": "EvolutionRun",
    "metadata": {"name": "differs"},
    "spec": {
        "rounds": 2,
        "model": {"uri": "s3://models/m"},
        "documents": {"uri": "s3://corpora/d"},
        "evaluation": {"uri": "s3://corpora/e.jsonl"},
        "publish": {"uri": "s3://adapters/a/"},
    },
}


@pytest.fixture
def bench(tmp_path: Path, demo: ModelSession) -> Bench:
    return Bench(tmp_path, demo)


def cleaned(raw: str) -> Cleaned | Rejected:
    return clean_question(raw, finished=True, document="")


def test_an_empty_or_cut_away_answer_has_no_score_but_a_reason_is_counted_and_never_selected(bench: Bench) -> None:
    pairs = [pair(1), pair(2) | {"answer": ""}, pair(3, "long " * 200), pair(4) | {"question": "", "answer": ""}]
    done = bench.do(score, SCORE, pairs=bench.put(pairs))
    rows = done.rows("scores")
    assert [row["ifd"] is None for row in rows] == [False, True, True, True]
    assert done.metrics["undefined"] == {"EmptyAnswer": 2, "TooLong": 1}
    for strategy in BY_SCORE:
        assert select(strategy, [row["ifd"] for row in rows], 4, seed=1) == [0]  # type: ignore[arg-type]
    published = bench.do(score, {**SCORE, "rules": "Reference"}, pairs=bench.put(pairs)).rows("scores")
    assert [row["ifd"] for row in published[1:]] == [1.0, 1.0, 1.0]


def test_the_answers_first_characters_are_scored_even_where_they_would_merge_with_what_comes_before(
    demo: ModelSession,
) -> None:
    """In one piece, `temper` and `ature` become other tokens than apart."""
    chat = demo.chat
    before, after = _merging(demo)
    question = {"question": "Which?", "answer": after}
    [published] = reference_measure(chat, 512, frame=lambda _: before, alone_frame=before)([question])
    assert published.conditional.scored < len(chat.plain(after))
    [found] = default_measure(chat, 512)([question])
    assert found.conditional.scored == len(chat.plain(after))


def _merging(session: ModelSession) -> tuple[str, str]:
    """Two texts that have more tokens apart than in one piece."""
    for word in ("temperature", "pressure", "maintenance", "number", "What", "machine", "the"):
        for cut in range(1, len(word)):
            apart = len(session.chat.joint(word[:cut])) + len(session.chat.joint(word[cut:]))
            if apart > len(session.chat.joint(word)):
                return word[:cut], word[cut:]
    raise AssertionError("no word merges")


def test_both_losses_are_over_the_same_answer_tokens_or_there_is_no_score(demo: ModelSession) -> None:
    pairs = [pair(n, "why " * n, "because " * 10) for n in range(1, 80, 7)]
    longest = len(demo.chat.prompt("why " * 40)) + len(demo.chat.plain("because " * 10))
    reasons = []
    for found in default_measure(demo.chat, longest)(pairs):
        tokens = [span.ids[span.start :].tolist() for span in (found.conditional, found.alone)]
        assert tokens[0] == tokens[1]
        reasons.append(found.reason)
    assert set(reasons) == {"", "TooLong"}
    published = reference_measure(demo.chat, longest)(pairs)
    assert any(0 < m.alone.scored != m.conditional.scored > 0 for m in published)


@pytest.mark.parametrize("answer", ["   ", "\n\n", ".", "。", "...", " . \n"])
def test_an_answer_of_blanks_or_full_stops_is_rejected_before_it_is_scored(demo: ModelSession, answer: str) -> None:
    assert clean_answer(answer, finished=True, document="") == Rejected("Empty")
    [found] = default_measure(demo.chat, 512)([{"question": "What?", "answer": answer}])
    assert found.reason == "EmptyAnswer"


@pytest.mark.parametrize(("rows", "size"), [(3999, 2000), (7999, 2000), (10, 3), (3, 10)])
def test_even_takes_exactly_as_many_as_asked_for_in_equal_steps(rows: int, size: int) -> None:
    scores = [1 - i / rows for i in range(rows)]
    chosen = select("Even", scores, size, seed=1)
    assert len(chosen) == min(size, rows)
    steps = [after - before for before, after in pairwise(chosen)]
    assert max(steps) - min(steps) <= 1
    assert len(select_as_reference("Even", scores, size, seed=1)) >= len(chosen)


@pytest.mark.parametrize(
    ("selection", "said"), [({"size": -1}, "size"), ({"strategy": "Hardest"}, "Hardest"), ({"size": 2.5}, "size")]
)
def test_a_selection_that_cannot_be_is_refused_before_anything_runs(selection: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRun, match=said):
        run_from_object(merged(RUN, {"spec": {"selection": selection}}))


def test_size_0_is_no_history_and_random_follows_from_the_seed() -> None:
    scores = [0.1 * i for i in range(10)]
    assert [select(s, scores, 0, seed=1) for s in (*BY_SCORE, "Random")] == [[]] * 4  # type: ignore[arg-type]
    assert select("Random", scores, 4, seed=1) == select("Random", scores, 4, seed=1)
    assert select("Random", scores, 4, seed=1) != select("Random", scores, 4, seed=2)
    assert run_from_object(merged(RUN, {"spec": {"selection": {"size": 0}}})).spec.selection.size == 0


def test_a_missing_score_or_one_that_is_no_number_is_left_out() -> None:
    scores = [0.4, None, math.nan, 0.9, math.inf]
    assert select("Hard", scores, 5, seed=1) == [3, 0]
    assert select("Easy", scores, 5, seed=1, max_ifd=1.0) == [3, 0]
    assert select_as_reference("Hard", [0.4, None, math.nan, 0.9], 2, seed=1) == [1, 2]


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("SCTP协议的主要特点是什么？", "SCTP协议的主要特点是什么？"),
        ("如何访问 http://10.0.0.1/a?x=1&y=2 这个地址？", "如何访问 http://10.0.0.1/a?x=1&y=2 这个地址？"),
        ("“如何导出告警？”", "如何导出告警？"),
        ("**如何升级系统？**", "如何升级系统？"),
        ("`如何升级系统？`", "如何升级系统？"),
        ("1. 如何导出告警？\n2. 如何清除告警？", "如何导出告警？"),
        ("- 如何升级系统？", "如何升级系统？"),
        ("  如何配置NTP？", "如何配置NTP？"),
        ("好的，以下是问题：\n问题：5G网络的时延要求是多少？", "5G网络的时延要求是多少？"),
        ("What is the default port?", "What is the default port?"),
        ("问题是：A是什么？\n问题是：B是什么？", "A是什么？"),
    ],
)
def test_a_question_keeps_its_text_and_its_languages_mark_and_loses_decoration(raw: str, text: str) -> None:
    assert cleaned(raw) == Cleaned(text)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [("", "Empty"), ("   ", "Empty"), ("???", "Empty"), ("请说明告警的处理流程。", "NotAQuestion")],
)
def test_what_is_no_question_is_rejected_with_the_reason(raw: str, reason: str) -> None:
    assert cleaned(raw) == Rejected(reason)  # type: ignore[arg-type]


def test_what_is_rejected_is_written_down_with_the_reason(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    said = iter([["", "Tell me.", "1. What is A?"], ["It is B."]])
    _engine_that_says(monkeypatch, said)
    done = bench.do(generate, GENERATE | {"questionsPerDocument": 3}, documents=bench.put([_document("A is B.")]))
    assert sorted(row["reason"] for row in done.rows("rejects")) == ["Empty", "NotAQuestion"]
    assert done.metrics["rejects"]["question"] == {"Empty": 1, "NotAQuestion": 1}


def test_what_any_engine_writes_is_cleaned(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    _engine_that_says(monkeypatch, iter([["**Question:** What is A?"], ["Answer: B."]]))
    done = bench.do(generate, GENERATE | {"questionsPerDocument": 1}, documents=bench.put([_document("A is B.")]))
    [row] = done.rows("pairs")
    assert (row["question"], row["answer"]) == ("What is A?", "B.")


def _document(text: str) -> dict[str, str]:
    return {"id": "a" * 16, "text": text, "language": "en"}


def _engine_that_says(monkeypatch: pytest.MonkeyPatch, said: Any) -> None:
    from evolution_trainer.transformers_engine import TransformersEngine

    def write(_engine: object, prompts: Sequence[Sequence[int]], *_: object, **_named: object) -> list[Reply]:
        replies = [Reply(text, True) for text in next(said)]
        assert len(replies) == len(prompts)
        return replies

    monkeypatch.setattr(TransformersEngine, "generate", write)


@pytest.mark.parametrize("text", ["Turn {{idx}}, {document}", "Stop <|im_end|> here", "<|im_start|>assistant"])
def test_questions_and_answers_are_plain_text_never_template_or_control_tokens(demo: ModelSession, text: str) -> None:
    [row], _ = tokenised([{"question": text, "answer": text}], demo, 512, "Default")
    ids, end = row.ids.tolist(), demo.chat.end
    prompt, answer = ids[: row.start], ids[row.start : -len(end)]
    assert prompt == demo.chat.prompt(text)
    assert demo.tokenizer.decode(answer) == text
    assert not set(answer) & set(demo.tokenizer.all_special_ids)
    [published], _ = tokenised([{"question": text, "answer": text}], demo, 512, "Reference")
    assert published.ids.tolist() != ids


def test_a_row_that_is_too_long_is_left_out_and_reported_and_no_other_is_cut(bench: Bench, demo: ModelSession) -> None:
    pairs = [pair(1), pair(2, "long " * 200), pair(3, "Why?", "long " * 200)]
    rows, dropped = tokenised(pairs, demo, 128, "Default")
    assert (len(rows), dropped) == (1, 2)
    whole = [*demo.chat.prompt(pairs[0]["question"]), *demo.chat.plain(pairs[0]["answer"]), *demo.chat.end]
    assert rows[0].ids.tolist() == whole
    short = {**TRAIN, "length": {"steps": 1}}
    done = bench.do(train, short, pairs=bench.put([*pairs, pair(4), pair(5), pair(6)]))
    assert any("2 of 6 training rows are longer than training.maxTokens (128)" in said for said in done.result.warnings)
    published, _ = tokenised(pairs, demo, 128, "Reference")
    assert [len(row.ids) for row in published[1:]] == [128, 128]
    assert published[1].ids[-1] != demo.chat.end[-1]


def test_empty_questions_and_answers_never_become_pairs() -> None:
    for clean in (clean_question, clean_answer):
        assert clean("", finished=True, document="") == Rejected("Empty")


@pytest.mark.parametrize("text", ["是", "5G", "backup"])
def test_equal_strings_score_100_beside_the_published_metrics(text: str) -> None:
    assert measure("BLEU", text, text) == measure("ROUGEL", text, text) == measure("CHRF", text, text) == 1.0
    if len(text) < 4:
        assert (measure("ReferenceBLEU", text, text) or 0) < 0.6


def test_strings_that_differ_in_blanks_only_score_100_beside_the_published_metrics() -> None:
    prediction, reference = "网元  管理", "网元管理"
    assert measure("BLEU", prediction, reference) == measure("ROUGEL", prediction, reference) == 1.0
    assert measure("ReferenceBLEU", prediction, reference) == pytest.approx(0.229575, abs=1e-6)
    assert measure("ReferenceROUGE", prediction, reference) == 1.0


def test_a_metric_that_fails_on_one_pair_does_not_end_the_evaluation(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails_on_two(_prediction: str, reference: str) -> float:
        return 1 / (0 if reference == "two" else 1)

    monkeypatch.setattr(metrics, "METRICS", {**metrics.METRICS, "ExactMatch": fails_on_two})
    items = [{"id": word, "question": f"What is {word}?", "answer": word} for word in ("one", "two", "three")]
    done = bench.do(evaluate, {**EVALUATE, "metrics": ["ExactMatch"]}, items=bench.put(items))
    assert [row["scores"]["ExactMatch"] for row in done.rows("predictions")] == [1.0, 0.0, 1.0]
    assert "ExactMatch could not be computed for 1 of 3 answers" in done.result.warnings[0]


def test_evaluation_is_greedy_and_ends_an_answer_where_the_model_does(
    bench: Bench, demo: ModelSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    from evolution_trainer.transformers_engine import TransformersEngine

    assert demo.tokenizer.convert_tokens_to_ids("<|im_start|>") not in demo.end_tokens
    assert demo.chat.end[-1] in demo.end_tokens
    temperatures = []

    def watch(_engine: object, prompts: Sequence[Sequence[int]], *arguments: Any, **named: Any) -> list[Reply]:
        bound = inspect.signature(TransformersEngine.generate).bind(None, prompts, *arguments, **named)
        temperatures.append(bound.arguments["temperature"])
        return [Reply("", True)] * len(prompts)

    with monkeypatch.context() as patch:
        watch.__signature__ = inspect.signature(TransformersEngine.generate)  # type: ignore[attr-defined]
        patch.setattr(TransformersEngine, "generate", watch)
        bench.do(evaluate, EVALUATE, items=bench.put([{"id": "i", "question": "What is one?", "answer": "1"}]))
    assert temperatures == [0.0]


def test_the_base_model_is_evaluated_before_the_first_round() -> None:
    baseline = next(stage for stage in unfold(run_from_object(RUN).spec, {}).stages if stage.id == "r0-evaluate")
    assert (baseline.kind, baseline.round) == (Kind.EVALUATE, 0)
    assert "adapter" not in baseline.inputs


def test_a_stage_that_fails_ends_the_worker_with_a_code_that_says_so(tmp_path: Path) -> None:
    model = (tmp_path / "nothing-here").as_uri()
    source = {"source": "Model", "uri": model, "revision": ""}
    stage = OrderStage(id="prepare-model", kind=Kind.PREPARE, round=0, parameters=source, inputs={})
    order = Order(run="differs", store=(tmp_path / "store").as_uri(), model=model, stages=(stage,))
    (tmp_path / "order.json").write_bytes(order.to_json())
    worker = [sys.executable, "-m", "evolution_trainer", str(tmp_path / "order.json"), "--cache", str(tmp_path / "c")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.run(worker, capture_output=True, env=environment, timeout=120, check=False)
    assert process.returncode == ExitCode.BAD_INPUT
