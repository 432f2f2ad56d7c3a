"""One greedy round of the published code, from documents to the trained adapter."""

from functools import partial
from pathlib import Path

import pytest

from evolution.plan.order import Compute
from evolution_trainer.engine import opened_engine
from evolution_trainer.fit import fit
from evolution_trainer.model import ModelSession
from evolution_trainer.prompts import render
from evolution_trainer.training_rows import Batches, tokenised
from parity.conftest import Vectors
from parity.published import BATCH, assert_weights, ifd, scores_of, training

LEARNING_RATE = 1e-6
MAX_TOKENS = 1024


@pytest.mark.slow
def test_questions_answers_scores_and_the_trained_adapter_of_a_round_are_the_same(
    vectors: Vectors, folder: Path, parity: ModelSession, tmp_path: Path
) -> None:
    document, prompts = vectors("round"), vectors("prompts")
    expected = document["pairs"]
    texts = [document["documents"][pair["document_index"]] for pair in expected]
    templates = prompts["templates"]
    with opened_engine(parity, Compute(), None) as engine:
        write = partial(engine.generate, temperature=0.0, top_p=1.0, max_tokens=MAX_TOKENS)
        seeds = [0] * len(texts)
        asked = [render(templates["question_user"], document=text) for text in texts]
        questions = [reply.text for reply in write([parity.chat.joint_prompt(prompt) for prompt in asked], seeds)]
        assert questions == [pair["question"].strip() for pair in expected]
        answered = [
            render(templates["answer_user"], document=text, question=pair["question"])
            for text, pair in zip(texts, expected, strict=True)
        ]
        answers = [reply.text for reply in write([parity.chat.joint_prompt(prompt) for prompt in answered], seeds)]
        assert answers == [pair["answer"].strip() for pair in expected]

    pairs = [{"id": str(n), "question": p["question"], "answer": p["answer"]} for n, p in enumerate(expected)]
    found = scores_of(parity, tmp_path, vectors("ifd"), pairs)
    assert [ifd(found[pair["id"]]) for pair in pairs] == pytest.approx([p["score"] for p in expected], abs=1e-5)

    rows, dropped = tokenised(pairs, parity, prompts["cutoff_len"], "Reference")
    assert not dropped
    assert len(rows) <= BATCH, "the order of the rows matters from the second step on, and is not known"
    start = folder / "adapters" / "sft_init_adapter"
    batches = Batches(rows, range(len(rows)), 1)
    fit(parity, training(LEARNING_RATE), batches, start, tmp_path, lambda *_, **__: None)
    assert_weights(tmp_path / "adapter", document["adapter_sum_of_squares"])
