"""The record of vLLM's names is what its sources say."""

from pathlib import Path
from textwrap import dedent

from tools.vllm_signatures import CLASSES, signatures

SOURCES = {
    "vllm/__init__.py": 'LAZY = {"LLM": ".entrypoints.llm:LLM", "SamplingParams": ".sampling_params:SamplingParams"}',
    "vllm/config/lora.py": "from typing import Literal\nMaxLoRARanks = Literal[1, 8]",
    "vllm/entrypoints/llm.py": """
        class LLM:
            def __init__(self, model, *, dtype="auto", runner, **kwargs): ...
            def generate(self, prompts, sampling_params=None): ...
        """,
    "vllm/sampling_params.py": """
        class SamplingParams:
            seed: int | None = None
            _hidden: int = 0
            def verify(self):
                if 0 < self.temperature < 0.01: ...
                if self.temperature > 2.0: ...
        """,
    "vllm/inputs/llm.py": """
        class TokensPrompt:
            prompt_token_ids: list[int]
            prompt: NotRequired[str]
        """,
    "vllm/outputs.py": """
        class RequestOutput:
            def __init__(self, request_id): ...
        class CompletionOutput:
            text: str
        """,
}


def test_names_are_read_without_running_anything(tmp_path: Path) -> None:
    sources = {path: f"class {name}: ..." for name, path in CLASSES.items()}
    protocol = CLASSES["CompletionRequest"]
    sources[protocol] = "class CompletionRequest: ...\nclass CompletionResponseChoice: ..."
    lora = CLASSES["LoadLoRAAdapterRequest"]
    sources[lora] = "class LoadLoRAAdapterRequest: ...\nclass UnloadLoRAAdapterRequest: ..."
    for path, text in (sources | SOURCES).items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(dedent(text) + "\nraise RuntimeError('run')\n")
    found = signatures(tmp_path, "1.2")
    assert found["version"] == "1.2"
    assert found["exports"] == ["vllm.LLM", "vllm.SamplingParams", "vllm.lora.request.LoRARequest"]
    assert found["methods"]["LLM.__init__"] == ["model", "*", "dtype=", "runner", "**kwargs"]
    assert found["methods"]["LLM.generate"] == ["prompts", "sampling_params="]
    assert found["fields"]["SamplingParams"] == ["seed="]
    assert found["fields"]["TokensPrompt"] == ["prompt_token_ids", "prompt="]
    assert (found["lora_ranks"], found["temperature"]) == ([1, 8], 2.0)
