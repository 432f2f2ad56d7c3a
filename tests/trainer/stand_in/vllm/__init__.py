"""Stands in for vLLM where that cannot be installed: takes the names that the release takes and no others, and computes
row by row.

STAND_IN_VLLM lets it fail: `broken` and `dies` at the start, `hangs` and `killed` at the first rows. What it was called
with goes to the file that STAND_IN_VLLM_CALLS names, as JSON Lines.
"""

import json
import os
import signal
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from vllm_names import RECORDED, check_fields, signature

from vllm.lora.request import LoRARequest

MISHAP = os.environ.get("STAND_IN_VLLM", "")


class SamplingParams:
    def __init__(self, *args: Any, **given: Any) -> None:
        bound = signature(RECORDED["fields"]["SamplingParams"]).bind(*args, **given)
        if bound.arguments["temperature"] > RECORDED["temperature"]:
            raise ValueError("temperature must be in [0, 2]")
        self.given = bound.arguments


class LLM:
    def __init__(self, *args: Any, **given: Any) -> None:
        self._given = dict(signature(RECORDED["methods"]["LLM.__init__"]).bind(*args, **given).arguments)
        self._given |= self._given.pop("kwargs", {})
        check_fields("EngineArgs", self._given)
        if self._given["max_lora_rank"] not in RECORDED["lora_ranks"]:
            raise ValueError(f"max_lora_rank {self._given['max_lora_rank']} is not among {RECORDED['lora_ranks']}")
        _tell("LLM", self._given)
        if MISHAP == "broken":
            raise ValueError("no kernel for this card")
        if MISHAP == "dies":
            sys.stderr.write("CUDA error: device-side assert\n")
            os._exit(3)
        self._models: dict[str, Any] = {}
        self._names: dict[int, str] = {}

    def generate(self, *args: Any, **given: Any) -> list[Any]:
        bound = signature(RECORDED["methods"]["LLM.generate"]).bind(*args, **given)
        if MISHAP == "hangs":
            threading.Event().wait()
        if MISHAP == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        lora: LoRARequest | None = bound.arguments["lora_request"]
        if lora:
            self._check(lora.given)
        _tell("generate", {"rows": len(bound.arguments["prompts"]), "lora": lora and lora.given})
        rows = zip(bound.arguments["prompts"], bound.arguments["sampling_params"], strict=True)
        return [self._row(prompt, settings.given, lora) for prompt, settings in rows]

    def _check(self, lora: dict[str, Any]) -> None:
        if not self._given["enable_lora"]:
            raise ValueError("LoRA is not enabled")
        rank = json.loads((Path(lora["lora_path"]) / "adapter_config.json").read_bytes())["r"]
        if rank > self._given["max_lora_rank"]:
            raise ValueError(f"LoRA rank {rank} is greater than max_lora_rank {self._given['max_lora_rank']}")
        if self._names.setdefault(lora["lora_int_id"], lora["lora_name"]) != lora["lora_name"]:
            raise ValueError("the number of another adapter")

    def _row(self, prompt: Any, settings: Any, lora: LoRARequest | None) -> Any:
        from row_by_row import continuation, read_model

        check_fields("TokensPrompt", prompt)
        path = lora.given["lora_path"] if lora else ""
        if path not in self._models:
            self._models[path] = read_model(self._given["model"], path or None)
        ids = prompt["prompt_token_ids"]
        if len(ids) + settings["max_tokens"] > self._given["max_model_len"]:
            raise ValueError("the prompt leaves no room for max_tokens")
        tokens = continuation(
            self._models[path],
            ids,
            settings["seed"],
            temperature=settings["temperature"],
            top_p=settings["top_p"],
            max_tokens=settings["max_tokens"],
            stop_token_ids=settings["stop_token_ids"],
        )
        finish_reason = "stop" if tokens[-1] in settings["stop_token_ids"] else "length"
        output = {
            "index": 0,
            "text": "",
            "token_ids": tokens,
            "cumulative_logprob": None,
            "logprobs": None,
            "finish_reason": finish_reason,
        }
        check_fields("CompletionOutput", output)
        signature(["*", *RECORDED["methods"]["RequestOutput.__init__"][4:6]]).bind(outputs=[], finished=True)
        return SimpleNamespace(outputs=[SimpleNamespace(**output)], finished=True)


def _tell(what: str, given: Any) -> None:
    if calls := os.environ.get("STAND_IN_VLLM_CALLS"):
        with Path(calls).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"call": what, **given}) + "\n")
