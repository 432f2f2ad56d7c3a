import json
import shutil
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch
from row_by_row import continuation
from transformers import Phi3Config, Phi3ForCausalLM

from evolution_trainer import transformers_engine
from evolution_trainer.decoding import can_join
from evolution_trainer.engine import Reply, read_reply
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


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_a_machine_that_runs_out_of_memory_halves_the_batch_and_goes_on(
    tiny_model: Path, tmp_path: Path, session: ModelSession, monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    small = ModelSession(str(tiny_model), tmp_path)
    forward = type(small.base).forward
    sizes: list[int] = []

    def out_of_memory_above_four_rows(self: Any, input_ids: torch.Tensor, **rest: Any) -> Any:
        sizes.append(len(input_ids))
        if len(input_ids) > 4 and input_ids.shape[1] == 1:  # in the midst of the replies
            raise error
        return forward(self, input_ids=input_ids, **rest)

    expected = replies(session, 1000, monkeypatch, temperature=1.0)
    monkeypatch.setattr(type(small.base), "forward", out_of_memory_above_four_rows)
    assert replies(small, 1000, monkeypatch, temperature=1.0) == expected
    assert max(sizes) > 4
    assert small.halvings > 0


def test_one_row_that_does_not_fit_into_memory_is_an_error(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = ModelSession(str(tiny_model), tmp_path)

    def out_of_memory(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(type(small.base), "forward", out_of_memory)
    with pytest.raises(torch.OutOfMemoryError):
        replies(small, 1000, monkeypatch)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_prompts_that_begin_alike_get_the_replies_that_each_gets_alone(
    session: ModelSession, temperature: float
) -> None:
    document = session.chat.prompt("The number of machine seven is 259 and its licence ends in May. ")
    prompts = [
        [*document, 7],
        [9],
        document,
        [*document, 8, 9, 10],
        document,
        session.chat.prompt("network " * 9),
        [9],
        [*document[:-4], 60, 61],
        session.chat.prompt("alarm"),
    ]
    with session.adapted(None) as model:
        write = partial(TransformersEngine(session, model).generate, temperature=temperature, top_p=0.9, max_tokens=12)
        together = write(prompts, range(len(prompts)))
        assert together == [write([prompt], [seed])[0] for seed, prompt in enumerate(prompts)]


def test_rows_that_are_done_make_room_for_others(session: ModelSession, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    prompts = [session.chat.prompt(question) for question in QUESTIONS]
    room = max(map(len, prompts)) + 12
    monkeypatch.setattr(transformers_engine, "TOKEN_BUDGET", {"cpu": 4 * room})
    with session.adapted(None) as model:
        handle = model.register_forward_pre_hook(
            lambda _, __, given: sizes.append(len(given["input_ids"])), with_kwargs=True
        )
        done: list[int] = []
        rooms = TransformersEngine(session, model).generate(
            prompts, SEEDS, temperature=1.0, top_p=1.0, max_tokens=12, on_done=done.append
        )
        handle.remove()
    assert max(sizes) == 4
    assert sum(done) == len(prompts) == 17
    assert len(done) > 5  # told as they come, not batch by batch
    lengths = [reply.tokens for reply in rooms]
    assert min(lengths) < max(lengths)
    assert sum(size for size in sizes) < 2 * sum(lengths)


def test_a_model_with_a_sliding_window_writes_what_it_writes_row_by_row(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1, "layer_types": None}
    (folder / "config.json").write_text(json.dumps(config))
    sliding = ModelSession(str(folder), tmp_path)
    assert not can_join(sliding.base)
    for settings in ({}, {"temperature": 1.0}):
        one_by_one = replies(sliding, 1, monkeypatch, **settings)
        assert one_by_one == replies(sliding, 400, monkeypatch, **settings)
        assert len({reply.text for reply in one_by_one}) > 5


@pytest.mark.parametrize("longest", [20, 60])
def test_a_model_that_turns_long_rows_by_other_angles_writes_what_it_writes_row_by_row(
    session: ModelSession, longest: int
) -> None:
    rope = {"rope_type": "longrope", "rope_theta": 10_000.0, "short_factor": [1.0] * 4, "long_factor": [8.0] * 4}
    torch.manual_seed(0)
    config = Phi3Config(
        vocab_size=session.config.vocab_size,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=session.window,
        original_max_position_embeddings=32,
        rope_parameters=rope,
        pad_token_id=session.pad_token,
        initializer_range=0.3,
    )
    model = Phi3ForCausalLM(config).eval()
    prompts = [[7 + (n * k) % 50 for k in range(n)] for n in (5, 9, 28, longest)]
    engine = TransformersEngine(session, model)
    together = engine.generate(prompts, [0] * 4, temperature=0.0, top_p=1.0, max_tokens=8)
    settings = {"temperature": 0.0, "top_p": 1.0, "max_tokens": 8, "stop_token_ids": session.end_tokens}
    assert together == [read_reply(session, continuation(model, prompt, 0, **settings)) for prompt in prompts]


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


@pytest.mark.parametrize("spread", [1.0, 8.0])
def test_the_nucleus_of_a_large_vocabulary_is_that_of_a_full_sort(spread: float) -> None:
    torch.manual_seed(0)
    logits = (torch.randn(16, 1000) * spread).round(decimals=1)  # many are equally likely
    uniforms = torch.rand(16, dtype=torch.float64)
    probabilities = torch.softmax(logits.double(), dim=-1).tolist()
    for token, row, uniform in zip(
        pick(logits, uniforms, 1.0, 0.9).tolist(), probabilities, uniforms.tolist(), strict=True
    ):
        likeliest = sorted(range(1000), key=lambda i, row=row: (-row[i], i))
        reached = list(accumulate(row[i] for i in likeliest))
        nucleus = sorted(likeliest[: next(n for n, total in enumerate(reached, 1) if total >= 0.9)])
        cumulated = list(accumulate(row[i] for i in nucleus))
        assert token == next(i for i, total in zip(nucleus, cumulated, strict=True) if total > uniform * cumulated[-1])
