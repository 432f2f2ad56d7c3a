"""What writes text is chosen on the command line, and reaches the worker."""

import importlib.util
from pathlib import Path

import pytest
from small_run import small_workplace

BAD_SPEC, USAGE = 40, 2


@pytest.mark.slow
def test_the_engine_of_the_command_line_is_the_workers(tmp_path: Path) -> None:
    if importlib.util.find_spec("vllm"):
        pytest.skip("vllm is installed here")
    done = small_workplace(tmp_path).evolve("run", "--engine", "vllm")
    assert done.returncode == BAD_SPEC, done.stderr
    assert "engine VLLM: vLLM is not installed here" in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--engine", "OpenAI"], "engine OpenAI asks a server; give its http(s):// URL"),
        (["--endpoint", "http://host/v1"], "engine Transformers asks no server; leave it out"),
        (["--engine", "OpenAI", "--endpoint", "http://me:secret@host/v1"], "give the key as OPENAI_API_KEY"),
        (["--engine", "TGI"], "'TGI' is not one of"),
    ],
)
def test_an_engine_that_cannot_be_is_told(tmp_path: Path, options: list[str], said: str) -> None:
    done = small_workplace(tmp_path).evolve("run", *options)
    assert done.returncode == USAGE
    assert said in " ".join(done.stderr.replace("│", " ").split())
