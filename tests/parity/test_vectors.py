"""Preset Reference meets the published code's numbers, function by function."""

import hashlib
import re
from pathlib import Path
from statistics import mean

import pytest

from evolution_trainer.clean import Cleaned, clean_question
from evolution_trainer.fit import fit
from evolution_trainer.metrics import measure, reference_rouges
from evolution_trainer.model import ModelSession
from evolution_trainer.prompts import render
from evolution_trainer.selection import select_as_reference
from evolution_trainer.training_rows import Batches, tokenised
from parity.conftest import Vectors
from parity.published import assert_weights, ifd, scores_of, training


def test_every_file_is_of_the_same_set(vectors: Vectors) -> None:
    names = ("ifd", "selection", "questions", "prompts", "metrics", "sft", "round")
    assert len({vectors(name)["set"] for name in names}) == 1


def test_difficulty_scores_their_losses_and_the_order_of_the_pairs_are_the_same(
    vectors: Vectors, parity: ModelSession, tmp_path: Path
) -> None:
    document = vectors("ifd")
    found = scores_of(parity, tmp_path, document, document["pairs"])
    for pair in document["pairs"]:
        score, conditional, alone = found[pair["id"]], pair["conditional"], pair["alone"]
        assert ifd(score) == pytest.approx(pair["score"], abs=2e-6), pair["id"]
        assert (score.ifd is None) == pair["score_is_nan_replacement"], pair["id"]
        if score.ifd is not None:
            assert score.tokens == conditional["answer_tokens"], pair["id"]
            assert score.loss == pytest.approx(conditional["mean_loss"], abs=1e-5), pair["id"]
            assert score.loss_alone == pytest.approx(alone["mean_loss"], abs=1e-5), pair["id"]
    ascending = sorted(found, key=lambda id_: ifd(found[id_]))
    assert ascending == [id_ for id_ in document["order_after_write"] if id_ in found]


def test_answer_tokens_are_counted_alike_with_and_without_the_question(vectors: Vectors, parity: ModelSession) -> None:
    from evolution_trainer.spans import reference_measure

    document = vectors("ifd")
    frame = document["frame"]
    measured = reference_measure(
        parity.chat,
        document["max_length"],
        frame=lambda question: frame["conditional"].replace("{question}", question),
        alone_frame=frame["alone"],
    )(document["pairs"])
    for pair, found in zip(document["pairs"], measured, strict=True):
        counts = (pair["conditional"]["answer_tokens"], pair["alone"]["answer_tokens"])
        assert (found.conditional.scored, found.alone.scored) == counts, pair["id"]


def test_the_selected_pairs_are_the_same_in_the_same_order(vectors: Vectors) -> None:
    document = vectors("selection")
    for case in document["cases"]:
        pool = [row for round_ in document["pools"][case["pool"]][: case["rounds"]] for row in round_]
        strategy = case["mode"].capitalize()
        chosen = select_as_reference(strategy, [score for _, score in pool], case["k"], seed=1)
        assert len(set(chosen)) == len(chosen) == case["count"], case
        if "selected" in case:
            assert [pool[i][0] for i in chosen] == case["selected"], case


def test_large_selections_are_the_same(vectors: Vectors) -> None:
    for case in vectors("selection")["large"]:
        scores = [((i * 7919 + 13) % 10007) / 10007 for i in range(case["n"])]
        chosen = select_as_reference(case["mode"].capitalize(), scores, case["k"], seed=1)
        assert len(chosen) == case["count"]
        if "sha256_of_comma_joined_ids" in case:
            ids = ",".join(map(str, chosen))
            assert hashlib.sha256(ids.encode()).hexdigest() == case["sha256_of_comma_joined_ids"], case


def test_questions_are_cleaned_to_the_same_text(vectors: Vectors) -> None:
    for case in vectors("questions")["cases"]:
        cleaned = clean_question(case["raw"], finished=False, document="", rules="Reference")
        assert cleaned == Cleaned(case["cleaned"]), case


def test_well_formed_questions_are_equal_under_both_rules_up_to_the_mark(vectors: Vectors) -> None:
    undecorated = re.compile(r"[^\W\d][^:：\n\"*?？]*[?？]")
    for case in vectors("questions")["cases"]:
        if undecorated.fullmatch(case["raw"]):
            cleaned = clean_question(case["raw"], finished=True, document="")
            assert isinstance(cleaned, Cleaned), case
            assert cleaned.text.replace("?", "？") == case["cleaned"]


def test_prompts_are_rendered_to_the_same_text(vectors: Vectors, parity: ModelSession) -> None:
    document = vectors("prompts")
    templates = document["templates"]
    for case in document["generation"]:
        asked = render(templates["question_user"], document=case["document"])
        assert parity.chat.render_prompt(asked) == case["question_prompt"]
        answered = render(templates["answer_user"], document=case["document"], question=case["question"])
        assert parity.chat.render_prompt(answered) == case["answer_prompt"]


def test_training_rows_have_the_same_tokens_and_the_same_trained_span(vectors: Vectors, parity: ModelSession) -> None:
    document = vectors("prompts")
    for row in document["training"]:
        [found], _ = tokenised([row], parity, document["cutoff_len"], "Reference")
        assert found.ids.tolist() == row["input_ids"], row["id"]
        assert [found.start, len(found.ids)] == row["trained_positions"], row["id"]
        assert (int(found.ids[-1]) == parity.chat.end[-1]) == row["ends_with_eos"], row["id"]


def test_metrics_of_every_pair_and_their_means_are_the_same(vectors: Vectors) -> None:
    document = vectors("metrics")
    found: dict[str, list[float]] = {}
    for pair in document["pairs"]:
        prediction, reference = pair["prediction"], pair["reference"]
        bleu = measure("ReferenceBLEU", prediction, reference)
        assert bleu is not None
        for name, value in {**reference_rouges(prediction, reference), "bleu-4": bleu}.items():
            assert value * 100 == pytest.approx(pair[name], abs=1e-4), pair
            found.setdefault(name, []).append(value * 100)
        rouge = measure("ReferenceROUGE", prediction, reference)
        assert rouge is not None
        assert rouge * 100 == pytest.approx(pair["rouge-l"], abs=1e-4), pair
    if len(document["pairs"]) == document["pairs_in_mean"]:
        for name, values in found.items():
            assert mean(values) == pytest.approx(document["mean"][name], abs=1e-4)


@pytest.mark.slow
def test_training_gives_the_same_losses_and_weights(
    vectors: Vectors, folder: Path, parity: ModelSession, tmp_path: Path
) -> None:
    document, cutoff = vectors("sft"), vectors("prompts")["cutoff_len"]
    pairs = {pair["id"]: {"question": pair["input"], "answer": pair["output"]} for pair in document["pairs"]}
    for run in document["runs"]:
        start = folder / "adapters" / run["starts_from"].removeprefix("final adapter of ")
        rows, dropped = tokenised([pairs[id_] for id_ in run["pairs"]], parity, cutoff, "Reference")
        assert not dropped
        order = [row for batch in run["micro_batches"] for row in batch["rows"]]
        scratch = tmp_path / run["name"]
        scratch.mkdir()
        batches = Batches(rows, order, run["optimizer_steps"])
        log = fit(parity, training(run["learning_rate"]), batches, start, scratch, lambda *_, **__: None)
        assert [row["loss"] for row in log] == pytest.approx([row["loss"] for row in run["log"]], abs=1e-5)
        rates = [row["learning_rate"] for row in run["log"]]
        assert [row["learningRate"] for row in log] == pytest.approx(rates)
        assert_weights(
            scratch / "adapter", {name: found["sum_of_squares"] for name, found in run["final_adapter"].items()}
        )
