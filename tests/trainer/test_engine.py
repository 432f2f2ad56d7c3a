import shutil
from pathlib import Path

import pytest
import torch

from evolution_trainer import transformers_engine
from evolution_trainer.engine import Reply
from evolution_trainer.model import ModelSession
from evolution_trainer.sampling import pick
from evolution_trainer.transformers_engine import TransformersEngine

QUESTIONS = [f"What is the number of machine {'seven ' * (i % 5)}{i}?" for i in range(17)]
SEEDS = list(range(100, 117))


def replies(session: ModelSession, budget: int, monkeypatch: pytest.MonkeyPatch, **settings: float) -> list[Reply]:
    monkeypatch.setattr(transformers_engine, "TOKEN_BUDGET", {"cpu": budget, "cuda": budget})
    with session.adapted(None) as model:
        prompts = [session.chat.prompt(question) for question in QUESTIONS]
        chosen = {"temperature": 0.0, "top_p": 1.0} | settings
        return TransformersEngine(session, model).generate(prompts, SEEDS, max_tokens=12, **chosen)


@pytest.mark.parametrize("settings", [{}, {"temperature": 1.0}, {"temperature": 0.7, "top_p": 0.8}])
def test_replies_are_the_same_for_any_batch_size(
    session: ModelSession, monkeypatch: pytest.MonkeyPatch, settings: dict[str, float]
) -> None:
    one_by_one = replies(session, 1, monkeypatch, **settings)
    assert one_by_one == replies(session, 150, monkeypatch, **settings)
    assert one_by_one == replies(session, 100_000, monkeypatch, **settings)
    assert len({reply.text for reply in one_by_one}) > 5


def test_another_seed_gives_another_sample(session: ModelSession) -> None:
    prompt = session.chat.prompt(QUESTIONS[0])
    with session.adapted(None) as model:
        written = TransformersEngine(session, model).generate(
            [prompt] * 3, [1, 1, 2], temperature=1.0, top_p=1.0, max_tokens=12
        )
    assert written[0] == written[1] != written[2]


def test_sampling_settings_of_the_model_do_not_leak_in(
    tiny_model: Path, session: ModelSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    (tmp_path / "model" / "generation_config.json").write_text(
        '{"do_sample": true, "temperature": 5.0, "top_k": 1, "repetition_penalty": 9.0, "min_new_tokens": 9}'
    )
    loud = ModelSession(str(tmp_path / "model"), tmp_path)
    assert replies(loud, 1000, monkeypatch) == replies(session, 1000, monkeypatch)
    assert replies(loud, 1000, monkeypatch, temperature=1.0) == replies(session, 1000, monkeypatch, temperature=1.0)


def test_a_reply_is_cut_where_the_models_window_ends(session: ModelSession) -> None:
    prompt = session.chat.prompt("seven " * 300)[: session.window - 3]
    with session.adapted(None) as model:
        writer = TransformersEngine(session, model)
        assert writer.fits(prompt)
        assert not writer.fits(prompt + [5] * 3)
        long, short = writer.generate([prompt, prompt[-20:]], [1, 2], temperature=0.0, top_p=1.0, max_tokens=12)
        [three_tokens] = writer.generate([prompt], [1], temperature=0.0, top_p=1.0, max_tokens=3)
        [alone] = writer.generate([prompt[-20:]], [2], temperature=0.0, top_p=1.0, max_tokens=12)
    assert long == three_tokens
    assert not long.finished
    assert short == alone


def test_a_gpu_that_runs_out_of_memory_halves_the_batch_and_goes_on(
    tiny_model: Path, tmp_path: Path, session: ModelSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = ModelSession(str(tiny_model), tmp_path)
    whole = TransformersEngine._batch
    sizes: list[int] = []

    def out_of_memory_above_four(self: TransformersEngine, prompts: list[list[int]], *rest: object) -> list[Reply]:
        sizes.append(len(prompts))
        if len(prompts) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(self, prompts, *rest)  # type: ignore[arg-type]

    expected = replies(session, 1000, monkeypatch)
    monkeypatch.setattr(TransformersEngine, "_batch", out_of_memory_above_four)
    assert replies(small, 1000, monkeypatch) == expected
    assert max(sizes) > 4
    assert small.halvings > 0


def test_the_nucleus_is_the_likeliest_tokens_that_reach_top_p() -> None:
    logits = torch.log(torch.tensor([[0.1, 0.5, 0.05, 0.35]], dtype=torch.float64))
    uniforms = torch.linspace(0, 1 - 1e-9, 1000, dtype=torch.float64)
    chosen = pick(logits.expand(1000, 4), uniforms, temperature=1.0, top_p=0.8)
    shares = torch.bincount(chosen, minlength=4) / 1000
    assert shares.tolist() == pytest.approx([0, 0.5 / 0.85, 0, 0.35 / 0.85], abs=2e-3)


def test_tokens_are_drawn_with_their_probabilities_at_a_temperature() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0]])
    uniforms = torch.linspace(0, 1 - 1e-9, 3000, dtype=torch.float64)
    chosen = pick(logits.expand(3000, 3), uniforms, temperature=0.5, top_p=1.0)
    shares = torch.bincount(chosen, minlength=3) / 3000
    assert shares.tolist() == pytest.approx(torch.softmax(logits[0] / 0.5, 0).tolist(), abs=2e-3)
