"""Text generation by a server with an OpenAI-compatible API, such as `vllm serve`.

Prompts go there as token ids, so the server needs no chat template of ours. An adapter is handed over as a folder that
the server can read, through vLLM's API for that (`POST /v1/load_lora_adapter`).
"""

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, ValidationError

from evolution.plan.manifest import Record
from evolution_trainer.endpoint import BUSY, CONCURRENCY, Endpoint, Response
from evolution_trainer.engine import Engine, Reply, read_reply
from evolution_trainer.failure import StageFailed
from evolution_trainer.model import ModelSession
from evolution_trainer.served_adapter import ServedAdapter, served_adapter


class _Model(Record):
    id: str
    root: str | None = None
    """Where vLLM took it from."""
    parent: str | None = None
    """The base model, if it is an adapter."""


class _Models(Record):
    data: list[_Model]


class _Choice(Record):
    text: str
    finish_reason: str | None = Field(default=None, alias="finish_reason")
    token_ids: list[int] | None = Field(default=None, alias="token_ids")
    """Only servers that know `return_token_ids` tell."""


class _Usage(Record):
    completion_tokens: int = Field(default=0, alias="completion_tokens")


class _Completion(Record):
    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage = _Usage()


@contextmanager
def opened(session: ModelSession, url: str, adapter: Path | None) -> Iterator[Engine]:
    """The server at `url`, which must serve the model of `session` under a name that tells it.

    Raises:
        StageFailed: EngineCannotServe, EngineRefused or ModelNotServed (bad spec); EngineUnavailable.
    """
    served = None if adapter is None else served_adapter(adapter, "OpenAI")
    endpoint = Endpoint(url)
    try:
        model = _model_name(endpoint, session.uri)
        if served is None:
            yield OpenAIEngine(session, endpoint, model)
            return
        _load(endpoint, served)
        try:
            yield OpenAIEngine(session, endpoint, served.name, served)
        finally:
            _unload(endpoint, served)
    finally:
        endpoint.close()


@dataclass(frozen=True)
class OpenAIEngine:
    """`Engine` by a server. Its batches are its own affair: a reply may depend on them in the last bits."""

    session: ModelSession
    endpoint: Endpoint
    model: str
    """Name of the model or the adapter there."""
    adapter: ServedAdapter | None = None

    def fits(self, prompt: Sequence[int]) -> bool:
        """Whether the model's window has room for a reply of at least one token."""
        return len(prompt) < self.session.window

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        *,
        temperature: float,
        top_p: float,
        max_tokens: int,
        on_done: Callable[[int], None] = lambda _: None,
    ) -> list[Reply]:
        """Replies in the order of `prompts` (token ids, all of which fit). Temperature 0 is greedy and uses no seed.

        Raises:
            StageFailed: EngineRefused (bad spec), EngineUnavailable.
        """
        if not prompts:
            return []
        replies: dict[int, Reply] = {}
        workers = ThreadPoolExecutor(min(CONCURRENCY, len(prompts)))
        try:
            rows = {
                workers.submit(
                    self._reply, prompt, seed, temperature, top_p, min(max_tokens, self.session.window - len(prompt))
                ): row
                for row, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True))
            }
            for done in as_completed(rows):
                replies[rows[done]] = done.result()
                on_done(1)
        except BaseException:
            self.endpoint.close()
            raise
        finally:
            workers.shutdown(wait=False, cancel_futures=True)
        return [replies[row] for row in range(len(prompts))]

    def _reply(self, prompt: Sequence[int], seed: int, temperature: float, top_p: float, max_tokens: int) -> Reply:
        # Whatever is left out, a server takes from the model's own sampling settings.
        body = {
            "model": self.model,
            "prompt": list(prompt),
            "n": 1,
            "seed": seed,
            "temperature": temperature,
            "top_p": top_p,
            "top_k": -1,
            "min_p": 0.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "repetition_penalty": 1.0,
            "max_tokens": max_tokens,
            "stop_token_ids": self.session.end_tokens,
            "skip_special_tokens": True,
            "return_token_ids": True,
        }
        response = self.endpoint.post("/completions", body)
        if response.status == 404 and self.adapter:
            # Another worker of the run had the same adapter loaded, and is done with it.
            _load(self.endpoint, self.adapter)
            response = self.endpoint.post("/completions", body)
        if response.status != 200:
            raise self.endpoint.refused(f"refuses a completion by {self.model}: {response.message}")
        with _understood(response, self.endpoint):
            completion = _Completion.model_validate(response.body)
        choice = completion.choices[0]
        if choice.token_ids is not None:
            return read_reply(self.session, choice.token_ids)
        return Reply(choice.text.strip(), choice.finish_reason == "stop", completion.usage.completion_tokens)


def _model_name(endpoint: Endpoint, uri: str) -> str:
    """The name under which the server has the model at `uri`: the location, its last part, or a name on the hub.

    Raises:
        StageFailed: ModelNotServed (bad spec), with the names that it has.
    """
    models = [model for model in _models(endpoint) if model.parent is None]
    names = _names(uri)
    for model in models:
        if names & (_names(model.id) | _names(model.root or "")):
            return model.id
    served = ", ".join(model.id for model in models) or "no model"
    raise endpoint.refused(
        f"serves {served}, and none is the run's {uri}; have it serve that model under the name "
        f"{min(names, key=len)} (vllm serve … --served-model-name)",
        reason="ModelNotServed",
    )


def _names(location: str) -> set[str]:
    """What a model may be called: its location without scheme and revision, and the last part of that."""
    place = re.sub(r"^[a-z0-9]+://|@[0-9a-f]{40}$", "", location).strip("/")
    return {name for name in (place, place.rpartition("/")[2]) if name}


def _models(endpoint: Endpoint) -> list[_Model]:
    response = endpoint.get("/models")
    if response.status != 200:
        raise endpoint.refused(f"does not list its models: {response.message}; give the URL that ends in /v1")
    with _understood(response, endpoint):
        return _Models.model_validate(response.body).data


def _load(endpoint: Endpoint, adapter: ServedAdapter) -> None:
    """Have the server load the adapter, unless it has done so: its name tells its content."""
    if _has(endpoint, adapter):
        return
    body = {"lora_name": adapter.name, "lora_path": str(adapter.path)}
    # 500 is how vLLM says that it cannot use an adapter.
    response = endpoint.post("/load_lora_adapter", body, busy=BUSY - {500})
    if response.status == 200 or _has(endpoint, adapter):
        return
    if response.status in (404, 405) and "error" not in (response.body if isinstance(response.body, dict) else {}):
        raise endpoint.refused(
            "cannot load adapters; start vLLM with --enable-lora --max-lora-rank RANK and "
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING=true in its environment, or use engine VLLM or Transformers"
        )
    raise endpoint.refused(
        f"does not load the adapter in {adapter.path} (rank {adapter.rank}): {response.message}; the server must see "
        "this folder under the same path (move it with EVOLUTION_CACHE) and have --max-lora-rank of at least its rank"
    )


def _has(endpoint: Endpoint, adapter: ServedAdapter) -> bool:
    return any(model.id == adapter.name for model in _models(endpoint))


def _unload(endpoint: Endpoint, adapter: ServedAdapter) -> None:
    try:
        response = endpoint.post("/unload_lora_adapter", {"lora_name": adapter.name})
    except StageFailed as failed:
        print(f"the adapter stays loaded: {failed}", file=sys.stderr)  # noqa: T201
        return
    if response.status not in (200, 404):
        print(f"the adapter {adapter.name} stays loaded: {response.message}", file=sys.stderr)  # noqa: T201


@contextmanager
def _understood(response: Response, endpoint: Endpoint) -> Iterator[None]:
    try:
        yield
    except ValidationError as error:
        what = error.errors(include_url=False)[0]
        where = ".".join(map(str, what["loc"]))
        raise endpoint.refused(f"is no OpenAI-compatible API: {where}: {what['msg']} in {response.message}") from error
