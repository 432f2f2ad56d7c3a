"""The engine VLLM as its stages use it: the real child process, with a stand-in for the package `vllm` that takes the
names of its release and no others.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tools.vllm_signatures import signatures
from vllm_names import RECORDED

from evolution.plan.order import Compute
from evolution.plan.worker import ExitCode
from evolution_trainer import vllm_engine, vllm_process
from evolution_trainer.channel import PARENT_DIED
from evolution_trainer.engine import Engine, opened_engine
from evolution_trainer.failure import StageFailed
from evolution_trainer.model import ModelSession
from evolution_trainer.vllm_process import Answer, Prompts, Start

HERE = Path(__file__).parent
VLLM = Compute(engine="VLLM")
QUESTIONS = [f"What is the number of machine {'seven ' * (i % 5)}{i}?" for i in range(7)]
SEEDS = [(1 << 63) - 1 - i for i in range(7)]
SAMPLED: dict[str, Any] = {"temperature": 0.8, "top_p": 0.9, "max_tokens": 12}
GREEDY: dict[str, Any] = {"temperature": 0.0, "top_p": 1.0, "max_tokens": 12}


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the calls of the child are written down."""
    before = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE / "stand_in"), str(HERE), before]).rstrip(os.pathsep))
    monkeypatch.setenv("STAND_IN_VLLM_CALLS", str(tmp_path / "calls.jsonl"))
    return tmp_path / "calls.jsonl"


@pytest.fixture
def prompts(session: ModelSession) -> list[list[int]]:
    """Of many lengths; the last one leaves room for five tokens."""
    whole = [session.chat.prompt(question) for question in QUESTIONS]
    return [*whole[:-1], (whole[-1] * 100)[: session.window - 5]]


def written(engine: Engine, prompts: list[list[int]]) -> list[Any]:
    return [engine.generate(prompts, SEEDS, **settings) for settings in (GREEDY, SAMPLED)]


def calls(file: Path, call: str) -> list[dict[str, Any]]:
    return [told for line in file.read_text().splitlines() if (told := json.loads(line))["call"] == call]


def processes_of(name: str) -> Iterator[str]:
    import psutil

    for process in psutil.Process().children(recursive=True):
        if name in " ".join(process.cmdline()):
            yield process.status()


@pytest.mark.slow
def test_replies_are_those_of_transformers_with_and_without_an_adapter(
    tiny_model: Path,
    tmp_path: Path,
    lora: Path,
    stand_in: Path,
    prompts: list[list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(vllm_engine, "CHUNK", 4)
    session = ModelSession(str(tiny_model), tmp_path)
    done: list[int] = []
    replies = {}
    for adapter in (None, lora):
        with opened_engine(session, VLLM, adapter) as engine:
            replies[adapter] = written(engine, prompts)
            engine.generate(prompts, SEEDS, **GREEDY, on_done=done.append)
        assert list(processes_of("vllm_process")) == []
        assert "base" not in vars(session)
    assert done == [4, 3] * 2
    assert replies[None] != replies[lora]
    for adapter in (None, lora):
        with opened_engine(session, Compute(), adapter) as engine:
            assert replies[adapter] == written(engine, prompts)
    finished = {reply.finished for reply in replies[None][1]}
    assert finished == {True, False}
    bare, adapted = calls(stand_in, "LLM")
    assert (bare["enable_lora"], adapted["enable_lora"], adapted["max_lora_rank"]) == (False, True, 8)
    assert all(
        (llm["enable_prefix_caching"], llm["generation_config"], llm["max_model_len"]) == (True, "vllm", session.window)
        for llm in (bare, adapted)
    )


def test_other_weights_have_another_name(lora: Path, tmp_path: Path) -> None:
    again, other = tmp_path / "again", tmp_path / "other"
    shutil.copytree(lora, again)
    shutil.copytree(lora, other)
    weights = (other / "adapter_model.safetensors").read_bytes()
    (other / "adapter_model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    names = [vllm_engine._adapter(folder).name for folder in (lora, again, other)]
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
    assert list(processes_of("vllm_process")) == []


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("busy", [True, False])
def test_vllm_leaves_when_its_worker_is_gone(tiny_model: Path, monkeypatch: pytest.MonkeyPatch, *, busy: bool) -> None:
    monkeypatch.setenv("STAND_IN_VLLM", "hangs")
    command = [sys.executable, "-m", "evolution_trainer.vllm_process"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        start = Start(model=str(tiny_model), window=256, dtype="float32", stop_tokens=[2])
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
