"""The engine VLLM as its stages use it: the real child process, with a stand-in for the package `vllm` that takes the
names of its release and no others.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors.torch import load_file, save_file
from stages import EVALUATE, Bench
from tools.vllm_signatures import signatures
from vllm_names import RECORDED
from worker_process import Workshop, order_stage, until_order_done

from evolution.api.run import Quantization
from evolution.plan.order import Compute, OrderStage
from evolution.plan.stage import Kind
from evolution.plan.worker import ExitCode, OrderDone
from evolution_trainer import vllm_engine, vllm_process
from evolution_trainer.adapter import AdapterParameters, trainable
from evolution_trainer.channel import PARENT_DIED
from evolution_trainer.engine import opened_engine
from evolution_trainer.failure import StageFailed
from evolution_trainer.model import ModelSession
from evolution_trainer.preemption import Preempted
from evolution_trainer.served_adapter import served_adapter
from evolution_trainer.vllm_process import Answer, Prompts, Start

HERE = Path(__file__).parent
VLLM = Compute(engine="VLLM")
QUESTIONS = [f"What is the number of machine {'seven ' * (i % 5)}{i}?" for i in range(7)]
SEEDS = [(1 << 63) - 1 - i for i in range(7)]
SAMPLED: dict[str, Any] = {"temperature": 0.8, "top_p": 0.9, "max_tokens": 12}
GREEDY: dict[str, Any] = {"temperature": 0.0, "top_p": 1.0, "max_tokens": 12}


@pytest.fixture
def stand_in(tmp_path: Path, session: ModelSession, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the calls of the child are written down."""
    before = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE / "stand_in"), str(HERE), before]).rstrip(os.pathsep))
    monkeypatch.setenv("STAND_IN_VLLM_CALLS", str(tmp_path / "calls.jsonl"))
    yield tmp_path / "calls.jsonl"
    session.vacate()


@pytest.fixture
def own(tiny_model: Path, tmp_path: Path) -> Iterator[ModelSession]:
    """Of this test alone, not read yet."""
    session = ModelSession(str(tiny_model), tmp_path)
    yield session
    session.vacate()


@pytest.fixture
def prompts(session: ModelSession) -> list[list[int]]:
    """Of many lengths; the last one leaves room for five tokens."""
    whole = [session.chat.prompt(question) for question in QUESTIONS]
    return [*whole[:-1], (whole[-1] * 100)[: session.window - 5]]


def calls(file: Path, call: str) -> list[dict[str, Any]]:
    return [told for line in file.read_text().splitlines() if (told := json.loads(line))["call"] == call]


def children(process: int | None = None) -> list[psutil.Process]:
    """Processes of vLLM below this process, or below another."""
    below = psutil.Process(process).children(recursive=True)
    return [one for one in below if "evolution_trainer.vllm_process" in " ".join(one.cmdline())]


@pytest.fixture(scope="module")
def other(lora: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another adapter."""
    folder = tmp_path_factory.mktemp("other") / "adapter"
    shutil.copytree(lora, folder)
    weights = load_file(folder / "adapter_model.safetensors")
    save_file(
        {name: -weight if "lora_B" in name else weight for name, weight in weights.items()},
        folder / "adapter_model.safetensors",
    )
    return folder


@pytest.mark.slow
def test_replies_are_those_of_transformers_for_base_model_and_adapters_in_turn(
    session: ModelSession,
    lora: Path,
    other: Path,
    stand_in: Path,
    prompts: list[list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(vllm_engine, "CHUNK", 4)
    done: list[int] = []
    replies = []
    turns = (None, lora, None, other, lora)
    for adapter in turns:
        with opened_engine(session, VLLM, adapter) as engine:
            replies.append(engine.generate(prompts, SEEDS, **SAMPLED, on_done=done.append))
        assert len(children()) == 1
        assert "base" not in vars(session)
    assert done == [4, 3] * len(turns)
    assert [len(calls(stand_in, "LLM")), len(calls(stand_in, "generate"))] == [1, 2 * len(turns)]
    with opened_engine(session, VLLM, None) as engine:
        greedy = engine.generate(prompts, SEEDS, **GREEDY)
    for adapter, written in zip(turns, replies, strict=True):
        with opened_engine(session, Compute(), adapter) as engine:
            assert children() == []
            assert written == engine.generate(prompts, SEEDS, **SAMPLED)
    with opened_engine(session, Compute(), None) as engine:
        assert greedy == engine.generate(prompts, SEEDS, **GREEDY)
    assert replies[0] == replies[2] != replies[1] == replies[4] != replies[3]
    assert {reply.finished for reply in replies[0]} == {True, False}
    (llm,) = calls(stand_in, "LLM")
    assert (llm["enable_prefix_caching"], llm["generation_config"]) == (True, "vllm")
    assert (llm["max_model_len"], llm["enable_lora"], llm["max_lora_rank"]) == (session.window, True, 64)


def train(session: ModelSession, quantization: Quantization) -> None:
    parameters = AdapterParameters(
        quantization=quantization, rank=4, alpha=8, dropout=0.0, target_modules=(), layers=()
    )
    with trainable(session, parameters, None):
        pass


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize(
    "need",
    [
        lambda session: train(session, "None"),
        lambda session: train(session, "NF4"),
        lambda session: session.adapted(None),
        lambda session: session.expect("0" * 64),
    ],
    ids=["training", "training on 4-bit weights", "scoring", "another model"],
)
def test_it_leaves_before_something_else_uses_the_gpu(
    own: ModelSession, need: Callable[[ModelSession], object]
) -> None:
    with opened_engine(own, VLLM, None):
        pass
    assert len(children()) == 1
    with suppress(StageFailed):  # 4-bit weights need a package of their own
        need(own)
    assert children() == []


def test_another_takes_its_place_where_it_has_too_little_room_or_died(
    own: ModelSession, lora: Path, stand_in: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_engine, "UNSEEN", 1)
    for adapter in (None, lora, None, lora):
        with opened_engine(own, VLLM, adapter):
            pass
    assert [llm["max_lora_rank"] for llm in calls(stand_in, "LLM")] == [1, 8]
    (child,) = children()
    child.kill()
    child.wait()
    with opened_engine(own, VLLM, None):
        assert len(children()) == 1
    assert [llm["max_lora_rank"] for llm in calls(stand_in, "LLM")] == [1, 8, 8]


@pytest.mark.usefixtures("stand_in")
def test_it_does_not_outlive_a_stage_that_is_interrupted(session: ModelSession) -> None:
    with pytest.raises(Preempted), opened_engine(session, VLLM, None):
        raise Preempted
    assert children() == []


@pytest.mark.slow
def test_a_worker_keeps_it_from_stage_to_stage_until_it_turns_to_another_model_or_ends(
    tiny_model: Path, tmp_path: Path, stand_in: Path
) -> None:
    shop = Workshop(tmp_path, tiny_model)
    source = {"source": "Model", "uri": tiny_model.as_uri(), "revision": ""}
    prepare = order_stage(Kind.PREPARE, source, "prepare-model")
    items = Bench(tmp_path, ModelSession("", tmp_path)).put([{"id": "i", "question": "What is 7?", "answer": "seven"}])

    def evaluate(tokens: int) -> OrderStage:
        parameters = {**EVALUATE, "maxTokens": tokens}
        return order_stage(Kind.EVALUATE, parameters, f"evaluate-{tokens}", items=items, model="prepare-model:model")

    with shop.start("--resident") as worker:

        def do(*stages: OrderStage, **changes: str) -> None:
            assert worker.stdin is not None
            order = shop.order(*stages).model_copy(update={"compute": VLLM, **changes})
            worker.stdin.write(order.to_json() + b"\n")
            worker.stdin.flush()
            assert isinstance(list(until_order_done(worker))[-1], OrderDone)

        do(prepare, evaluate(1), evaluate(2))
        do(prepare, evaluate(3))
        assert len(calls(stand_in, "LLM")) == len(children(worker.pid)) == 1
        do(prepare, model="file:///another")
        assert children(worker.pid) == []
        do(prepare, evaluate(4))
        (child,) = children(worker.pid)
        worker.terminate()
        assert worker.wait(30) == ExitCode.PREEMPTED
        assert not child.is_running()


def test_other_weights_have_another_name(lora: Path, other: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    shutil.copytree(lora, again)
    names = [served_adapter(folder, "VLLM").name for folder in (lora, again, other)]
    assert names[0] == names[1] != names[2]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"use_dora": True}, "training.variant DoRA"),
        ({"modules_to_save": ["embed_tokens"]}, "modules_to_save: embed_tokens"),
        ({"r": 513}, "rank 513, more than the 512"),
        (None, "training.variant Full is a whole model"),
    ],
)
def test_what_vllm_cannot_serve_is_refused_before_it_starts(
    session: ModelSession, lora: Path, tmp_path: Path, change: dict[str, Any] | None, said: str
) -> None:
    folder = tmp_path / "adapter"
    shutil.copytree(lora, folder)
    settings = folder / "adapter_config.json"
    if change is None:
        settings.unlink()
    else:
        settings.write_text(json.dumps(json.loads(settings.read_bytes()) | change))
    with pytest.raises(StageFailed, match=said) as refused, opened_engine(session, VLLM, folder):
        pass
    assert (refused.value.reason, refused.value.code) == ("EngineCannotServe", ExitCode.BAD_SPEC)
    assert "engine VLLM" in str(refused.value)
    assert "use engine Transformers" in str(refused.value)


def test_a_temperature_that_vllm_refuses_is_refused_with_its_fields(session: ModelSession, stand_in: Path) -> None:
    with opened_engine(session, VLLM, None) as engine, pytest.raises(StageFailed, match=r"generation\.temperature"):
        engine.generate([[5]], [1], temperature=3.0, top_p=1.0, max_tokens=2)
    assert calls(stand_in, "generate") == []


@pytest.mark.parametrize(
    ("mishap", "said"),
    [
        ("broken", "vLLM failed: ValueError: no kernel for this card"),
        ("dies", r"vLLM ended with exit code 3, its last words: .*CUDA error: device-side assert"),
        ("killed", "vLLM was killed by signal 9"),
        ("hangs", "vLLM was silent for 1 s"),
    ],
)
@pytest.mark.usefixtures("stand_in")
def test_a_child_that_fails_ends_the_stage_and_is_worth_another_try(
    session: ModelSession, monkeypatch: pytest.MonkeyPatch, mishap: str, said: str
) -> None:
    monkeypatch.setenv("STAND_IN_VLLM", mishap)
    monkeypatch.setattr(vllm_engine, "SILENCE_SECONDS", 1.0)
    with pytest.raises(StageFailed, match=said) as failed, opened_engine(session, VLLM, None) as engine:
        engine.generate([[5] * 200] * 300, [1] * 300, **GREEDY)
    assert (failed.value.reason, failed.value.code) == ("EngineUnavailable", 1)
    assert children() == []


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("busy", [True, False])
def test_vllm_leaves_when_its_worker_is_gone(tiny_model: Path, monkeypatch: pytest.MonkeyPatch, *, busy: bool) -> None:
    monkeypatch.setenv("STAND_IN_VLLM", "hangs")
    command = [sys.executable, "-m", "evolution_trainer.vllm_process"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        start = Start(model=str(tiny_model), window=256, dtype="float32", stop_tokens=[2], rank=8)
        process.stdin.write(start.to_json() + b"\n")
        process.stdin.flush()
        assert Answer.model_validate_json(process.stdout.readline()) == Answer()
        if busy:
            rows = Prompts(tokens=[[5]], seeds=[1], max_tokens=[2], temperature=0.0, top_p=1.0)
            process.stdin.write(rows.to_json() + b"\n")
        process.stdin.close()
        assert process.wait(60) == (PARENT_DIED if busy else 0)


def test_without_vllm_the_remedy_is_told(session: ModelSession) -> None:
    if importlib.util.find_spec("vllm"):
        pytest.skip("vllm is installed here")
    with pytest.raises(StageFailed, match="vLLM is not installed here") as failed, opened_engine(session, VLLM, None):
        pass
    assert (failed.value.reason, failed.value.code) == ("EngineMissing", ExitCode.BAD_SPEC)


def test_we_know_the_ranks_and_the_bounds_of_the_release() -> None:
    assert list(vllm_process.RANKS) == RECORDED["lora_ranks"]
    assert RECORDED["temperature"] == vllm_engine.HOTTEST
    assert RECORDED["exports"] == ["vllm.LLM", "vllm.SamplingParams", "vllm.lora.request.LoRARequest"]


def test_what_is_recorded_is_what_is_installed() -> None:
    found = importlib.util.find_spec("vllm")
    if found is None or found.origin is None:
        pytest.skip("vllm is not installed here (it needs Linux with Python 3.12)")
    assert signatures(Path(found.origin).parents[1], RECORDED["version"]) == RECORDED
