import numpy as np
import pytest
from stages import EVALUATE, TRAIN, Bench, pair

from evolution_trainer import evaluate, metrics, train
from evolution_trainer.engine import Reply
from evolution_trainer.metrics import interval, measure
from evolution_trainer.preemption import Preempted
from evolution_trainer.transformers_engine import TransformersEngine


def item(number: int, question: str = "", answer: str = "") -> dict[str, str]:
    return {"id": f"i{number}", "question": question or f"What is {number}?", "answer": answer or f"Number {number}"}


def test_every_item_is_answered_and_scored_in_order(bench: Bench) -> None:
    items = [item(i) for i in range(30)]
    done = bench.do(evaluate, EVALUATE, items=bench.put(items))
    rows = done.rows("predictions")
    assert [{k: row[k] for k in ("id", "question", "answer")} for row in rows] == items
    assert all(row["scores"].keys() == {"ExactMatch", "ROUGEL"} for row in rows)
    assert done.metrics["scores"]["ROUGEL"]["n"] == 30
    assert done.metrics["overlap"] == 0
    assert bench.progress[-1] == ("items", 30, 30)


def test_an_answer_that_is_expected_scores_one(bench: Bench) -> None:
    said = bench.do(evaluate, {**EVALUATE, "maxTokens": 24}, items=bench.put([item(1)])).rows("predictions")
    expected = [item(1, answer=said[0]["prediction"] + "."), item(2, answer="something else")]
    scores = bench.do(evaluate, {**EVALUATE, "maxTokens": 24}, items=bench.put(expected)).metrics["scores"]
    assert scores["ExactMatch"]["mean"] == 0.5
    assert scores["ExactMatch"]["low"] == 0.0
    assert scores["ExactMatch"]["high"] == 1.0


def test_two_evaluations_give_the_same_bytes_whatever_the_batches(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = bench.put(item(i, f"What is {'seven ' * (i % 7)}?") for i in range(20))
    first = bench.do(evaluate, EVALUATE, items=given)
    monkeypatch.setattr("evolution_trainer.transformers_engine.TOKEN_BUDGET", {"cpu": 100})
    monkeypatch.setattr("evolution_trainer.writer.WINDOW", 3)
    second = bench.do(evaluate, EVALUATE, items=given)
    assert first.digest("predictions") == second.digest("predictions")
    assert first.metrics == second.metrics


def test_an_interrupted_worker_goes_on_at_the_item(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    given = bench.put([*(item(i) for i in range(12)), item(12, "long " * 300)])
    whole = bench.do(evaluate, EVALUATE, items=given)
    monkeypatch.setattr("evolution_trainer.writer.WINDOW", 4)
    answer, prompts = TransformersEngine.generate, []

    def until_a_signal(self: TransformersEngine, asked: list[list[int]], *rest: object, **named: object) -> list[Reply]:
        if len(prompts) == 8:
            raise Preempted
        prompts.extend(asked)
        return answer(self, asked, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(TransformersEngine, "generate", until_a_signal)
    with pytest.raises(Preempted):
        bench.do(evaluate, EVALUATE, items=given)
    prompts.append([])
    bench.progress.clear()
    done = bench.do(evaluate, EVALUATE, items=given)
    assert len(prompts) - 1 == 12
    assert bench.progress[0] == ("items", 8, 13)
    assert done.digest("predictions") == whole.digest("predictions")
    assert (done.metrics, done.result.warnings) == (whole.metrics, whole.result.warnings)


def test_evaluation_questions_that_were_trained_on_are_counted_in_a_warning(bench: Bench) -> None:
    items = [item(1), item(2), item(3)]
    pairs = [pair(1, "what is 1 ?"), pair(2, "Who is 2?"), pair(3, "What is 3")]
    done = bench.do(evaluate, EVALUATE, items=bench.put(items), pairs=bench.put(pairs))
    assert done.metrics["overlap"] == 2
    assert "2 of 3 evaluation questions were also asked" in done.result.warnings[0]


def test_a_question_over_the_models_window_counts_as_not_answered(bench: Bench) -> None:
    done = bench.do(evaluate, EVALUATE, items=bench.put([item(1), item(2, "long " * 300)]))
    assert done.rows("predictions")[1]["prediction"] == ""
    assert "1 of 2 questions are longer than the model's window of 256 tokens" in done.result.warnings[0]


def test_a_metric_that_fails_on_a_pair_counts_as_zero_with_a_warning(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(prediction: str, reference: str) -> float:  # noqa: ARG001
        raise ZeroDivisionError

    monkeypatch.setattr(metrics, "METRICS", {**metrics.METRICS, "ROUGEL": fails})
    done = bench.do(evaluate, EVALUATE, items=bench.put([item(1)]))
    assert done.metrics["scores"]["ROUGEL"]["mean"] == 0.0
    assert "ROUGEL could not be computed for 1 of 1 answers" in done.result.warnings[0]


@pytest.mark.parametrize(
    ("prediction", "reference", "equal"),
    [
        ("  Heron   BLUE. ", "heron blue", True),
        ("ＡＢＣ１２", "abc12", True),
        ("7", "7.5", False),
        ("北京。", "北京", True),
        ("", "x", False),
    ],
)
def test_exact_match_ignores_case_width_blanks_and_final_punctuation(
    prediction: str, reference: str, equal: bool
) -> None:
    assert measure("ExactMatch", prediction, reference) == float(equal)


@pytest.mark.parametrize("metric", list(metrics.METRICS))
def test_equal_long_texts_score_one_and_unrelated_ones_next_to_nothing(metric: str) -> None:
    text = "网络切片是一种把物理网络分成多个虚拟网络的技术 and nothing else matters here"
    assert measure(metric, text, text) == pytest.approx(1.0)  # type: ignore[arg-type]
    assert measure(metric, "zzz qqq vvv xxx", text) < 0.1  # type: ignore[arg-type, operator]


def test_rouge_counts_chinese_characters_as_words() -> None:
    assert measure("ROUGEL", "网络切", "网络切片") == pytest.approx(6 / 7, abs=1e-6)


def test_the_interval_holds_the_mean_and_narrows_with_more_items() -> None:
    random = np.random.default_rng(5)
    few, many = random.random(20), random.random(2000)
    low, high = interval(few, 1)
    assert low < few.mean() < high
    assert interval(few, 1) == (low, high)
    narrow = interval(many, 1)
    assert narrow[1] - narrow[0] < (high - low) / 5


def test_an_adapter_changes_what_is_answered(bench: Bench) -> None:
    facts = [pair(i, f"What is {i}?", "seven") for i in range(8)]
    parameters = {**TRAIN, "learningRate": 0.02, "length": {"steps": 40}}
    adapter = bench.do(train, parameters, pairs=bench.put(facts)).digest("adapter")
    items = bench.put(item(i, answer="seven") for i in range(8))
    base = bench.do(evaluate, EVALUATE, items=items)
    taught = bench.do(evaluate, EVALUATE, items=items, adapter=adapter)
    assert base.metrics["scores"]["ExactMatch"]["mean"] == 0
    assert taught.metrics["scores"]["ExactMatch"]["mean"] == 1
