"""`python -m evolution_trainer.vllm_process`: vLLM in a process of its own, whose end frees all memory of the GPU.

The first line of its standard input says what to serve, each further one brings prompts. A line on standard output
answers each. `tests/trainer/vllm_signatures.json` has the names of vLLM's that may occur here.
"""

import sys
import traceback
from typing import Any

from evolution.plan.manifest import Record
from evolution_trainer.channel import EventPipe, OrderPipe

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM makes room for."""


class Adapter(Record):
    name: str
    path: str


class Start(Record):
    """What to serve."""

    model: str
    """Folder."""
    window: int
    dtype: str
    stop_tokens: list[int]
    rank: int
    """Of adapters, to make room for; one of RANKS."""


class Prompts(Record):
    """Rows to continue."""

    adapter: Adapter | None = None
    """Who continues them; None: the bare model."""
    tokens: list[list[int]]
    seeds: list[int]
    max_tokens: list[int]
    temperature: float
    top_p: float


class Continuation(Record):
    tokens: list[int]
    reason: str
    """Why it ended: stop, length, or something that went wrong."""


class Answer(Record):
    """To either: nothing but `continuations` in the order of the prompts, or what went wrong."""

    continuations: list[Continuation] = []
    error: str = ""
    missing: bool = False
    """vLLM cannot be imported."""


class Server:
    """The model in vLLM, with and without adapters."""

    def __init__(self, start: Start) -> None:
        from vllm import LLM  # type: ignore[import-not-found]  # an extra of its own, for Linux with a GPU

        self._stop_tokens = start.stop_tokens
        self._numbers: dict[str, int] = {}
        self._llm = LLM(
            model=start.model,
            dtype=start.dtype,
            seed=0,
            max_model_len=start.window,
            # The model's own sampling settings must not leak in.
            generation_config="vllm",
            enable_prefix_caching=True,
            enable_lora=True,
            max_lora_rank=start.rank,
        )

    def write(self, prompts: Prompts) -> list[Continuation]:
        requests: Any = [{"prompt_token_ids": tokens} for tokens in prompts.tokens]
        settings = [
            self._settings(prompts, seed, limit) for seed, limit in zip(prompts.seeds, prompts.max_tokens, strict=True)
        ]
        outputs = self._llm.generate(requests, settings, use_tqdm=False, lora_request=self._request(prompts.adapter))
        first = [output.outputs[0] for output in outputs]
        return [Continuation(tokens=list(one.token_ids), reason=one.finish_reason or "") for one in first]

    def _request(self, adapter: Adapter | None) -> Any:
        from vllm.lora.request import LoRARequest  # type: ignore[import-not-found]

        if adapter is None:
            return None
        # vLLM tells loaded adapters apart by number.
        number = self._numbers.setdefault(adapter.name, len(self._numbers) + 1)
        return LoRARequest(lora_name=adapter.name, lora_int_id=number, lora_path=adapter.path)

    def _settings(self, prompts: Prompts, seed: int, max_tokens: int) -> Any:
        from vllm import SamplingParams

        return SamplingParams(
            n=1,
            temperature=prompts.temperature,
            top_p=prompts.top_p,
            top_k=0,
            min_p=0.0,
            presence_penalty=0.0,
            frequency_penalty=0.0,
            repetition_penalty=1.0,
            seed=seed,
            max_tokens=max_tokens,
            min_tokens=0,
            stop_token_ids=self._stop_tokens,
            ignore_eos=False,
            # Tokens become text where the other engines' do.
            detokenize=False,
        )


def main() -> int:
    pipe = EventPipe()
    orders = OrderPipe(lambda: None)
    server: Server | None = None
    for line in orders:
        try:
            if server is None:
                server = Server(Start.model_validate_json(line))
                answer = Answer()
            else:
                answer = Answer(continuations=server.write(Prompts.model_validate_json(line)))
        except Exception as error:  # the boundary of the process: whatever it is, the parent is told
            traceback.print_exc()
            missing = isinstance(error, ModuleNotFoundError) and error.name == "vllm"
            pipe.emit(Answer(error=f"{type(error).__name__}: {error}", missing=missing))
            return 1
        orders.finished()
        pipe.emit(answer)
    return 0


if __name__ == "__main__":
    sys.exit(main())
