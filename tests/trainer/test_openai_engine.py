"""The engine OpenAI against a real server of this machine, which takes the fields that vLLM's takes and no others."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from row_by_row import continuation, read_model
from stages import EVALUATE, Bench
from transformers import AutoTokenizer
from vllm_names import check_fields

from evolution.plan.order import Compute
from evolution.plan.worker import ExitCode
from evolution_trainer import endpoint, evaluate
from evolution_trainer.engine import Engine, opened_engine
from evolution_trainer.failure import StageFailed
from evolution_trainer.model import ModelSession

QUESTIONS = [f"What is the number of machine {'seven ' * (i % 5)}{i}?" for i in range(7)]
SEEDS = [(1 << 63) - 1 - i for i in range(7)]
SAMPLED: dict[str, Any] = {"temperature": 0.8, "top_p": 0.9, "max_tokens": 12}
GREEDY: dict[str, Any] = {"temperature": 0.0, "top_p": 1.0, "max_tokens": 12}


@dataclass
class Server:
    """Serves a model and the adapters that it is told to load."""

    folder: Path
    name: str
    loads_adapters: bool = True
    tells_tokens: bool = True
    refusals: list[int] = field(default_factory=list)
    """Statuses of the next completions."""
    key: str = ""
    said: list[tuple[str, Any]] = field(default_factory=list)
    """Path and body of every POST."""
    models: dict[str, Any] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    url: str = ""

    def __post_init__(self) -> None:
        self.models[self.name] = read_model(self.folder)
        self.tokenizer = AutoTokenizer.from_pretrained(self.folder)

    def answer(self, path: str, body: Any, key: str) -> tuple[int, Any]:
        with self.lock:
            if self.key and key != f"Bearer {self.key}":
                return 401, {"error": "Unauthorized"}
            if body is None:
                return self._models() if path == "/v1/models" else (404, {"detail": "Not Found"})
            self.said.append((path, body))
            if path == "/v1/completions":
                return self._completion(body)
            if self.loads_adapters and path == "/v1/load_lora_adapter":
                return self._load(body)
            if self.loads_adapters and path == "/v1/unload_lora_adapter":
                check_fields("UnloadLoRAAdapterRequest", body)
                del self.models[body["lora_name"]]
                return 200, "removed"
            return 404, {"detail": "Not Found"}

    def _models(self) -> tuple[int, Any]:
        listed = [{"id": name, "parent": None if name == self.name else self.name} for name in self.models]
        return 200, {"object": "list", "data": listed}

    def _load(self, body: Any) -> tuple[int, Any]:
        check_fields("LoadLoRAAdapterRequest", body)
        if body["lora_name"] in self.models:
            return 400, {"error": {"message": "has already been loaded"}}
        if not Path(body["lora_path"]).is_dir():
            return 404, {"error": {"message": f"No adapter found for {body['lora_path']}"}}
        self.models[body["lora_name"]] = read_model(self.folder, body["lora_path"])
        return 200, "added"

    def _completion(self, body: Any) -> tuple[int, Any]:
        check_fields("CompletionRequest", body)
        if self.refusals:
            return self.refusals.pop(0), {"error": {"message": "not now"}}
        if body["model"] not in self.models:
            return 404, {"error": {"message": f"The model {body['model']} does not exist."}}
        settings = {name: body[name] for name in ("temperature", "top_p", "max_tokens", "stop_token_ids")}
        tokens = continuation(self.models[body["model"]], body["prompt"], body["seed"], **settings)
        stopped = tokens[-1] in body["stop_token_ids"]
        choice: dict[str, Any] = {
            "index": 0,
            "text": self.tokenizer.decode(tokens[:-1] if stopped else tokens, skip_special_tokens=True),
            "finish_reason": "stop" if stopped else "length",
        }
        if self.tells_tokens and body["return_token_ids"]:
            choice["token_ids"] = tokens
        check_fields("CompletionResponseChoice", choice)
        return 200, {"choices": [choice], "usage": {"completion_tokens": len(tokens)}}

    def times(self, path: str) -> int:
        return [said for said, _ in self.said].count(f"/v1/{path}")


@pytest.fixture
def server(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    serving = Server(tiny_model, tiny_model.name)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(None)

        def do_POST(self) -> None:
            self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _answer(self, body: Any) -> None:
            status, answer = serving.answer(self.path, body, self.headers.get("Authorization", ""))
            data = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listening.daemon_threads = True
    threading.Thread(target=listening.serve_forever, args=(0.02,), daemon=True).start()
    serving.url = f"http://127.0.0.1:{listening.server_port}/v1"
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr(endpoint, "FIRST_PAUSE", 0.001)
    yield serving
    listening.shutdown()
    listening.server_close()


@pytest.fixture
def prompts(session: ModelSession) -> list[list[int]]:
    """Of many lengths; the last one leaves room for five tokens."""
    whole = [session.chat.prompt(question) for question in QUESTIONS]
    return [*whole[:-1], (whole[-1] * 100)[: session.window - 5]]


def asking(server: Server) -> Compute:
    return Compute(engine="OpenAI", endpoint=server.url)


def written(engine: Engine, prompts: list[list[int]]) -> list[Any]:
    return [engine.generate(prompts, SEEDS, **settings) for settings in (GREEDY, SAMPLED)]


@pytest.mark.parametrize("tells_tokens", [True, False])
def test_replies_are_those_of_transformers_with_and_without_an_adapter(
    session: ModelSession, lora: Path, server: Server, prompts: list[list[int]], *, tells_tokens: bool
) -> None:
    server.tells_tokens = tells_tokens
    replies, done = {}, []
    for adapter in (None, lora):
        with opened_engine(session, asking(server), adapter) as engine:
            replies[adapter] = written(engine, prompts)
            engine.generate(prompts, SEEDS, **GREEDY, on_done=done.append)
        assert list(server.models) == [server.name]
    assert sum(done) == 2 * len(prompts)
    for adapter in (None, lora):
        with opened_engine(session, Compute(), adapter) as engine:
            assert replies[adapter] == written(engine, prompts)
    assert replies[None] != replies[lora]
    assert {reply.finished for reply in replies[None][1]} == {True, False}


def test_the_server_is_not_asked_for_the_models_own_weights(tiny_model: Path, tmp_path: Path, server: Server) -> None:
    session = ModelSession(str(tiny_model), tmp_path)
    with opened_engine(session, asking(server), None) as engine:
        engine.generate([session.chat.prompt("seven?")], [1], **GREEDY)
    assert "base" not in vars(session)


def test_a_busy_server_is_asked_again(session: ModelSession, server: Server, prompts: list[list[int]]) -> None:
    with opened_engine(session, asking(server), None) as engine:
        calm = engine.generate(prompts, SEEDS, **GREEDY)
        server.refusals = [429, 503, 500, 502]
        assert engine.generate(prompts, SEEDS, **GREEDY) == calm
    assert server.times("completions") == 2 * len(prompts) + 4


def test_a_server_that_stays_busy_or_away_is_worth_another_try(session: ModelSession, server: Server) -> None:
    server.refusals = [503] * 1000
    with (
        pytest.raises(StageFailed, match=r"completions did not answer in 6 attempts: HTTP 503: not now") as busy,
        opened_engine(session, asking(server), None) as engine,
    ):
        engine.generate([[5, 6]] * 100, [1] * 100, **GREEDY)
    nowhere = Compute(engine="OpenAI", endpoint="http://127.0.0.1:1/v1")
    with (
        pytest.raises(StageFailed, match=r"127.0.0.1:1/v1/models did not answer.*refused") as away,
        opened_engine(session, nowhere, None),
    ):
        pass
    for failed in (busy, away):
        assert (failed.value.reason, failed.value.code) == ("EngineUnavailable", ExitCode.STORE_UNAVAILABLE)


def test_another_model_is_refused_with_the_names_that_the_server_has(
    tiny_model: Path, session: ModelSession, server: Server
) -> None:
    server.models = {"org/another": None, "adapter": None}
    server.name = "org/another"
    with pytest.raises(StageFailed) as failed, opened_engine(session, asking(server), None):
        pass
    assert (failed.value.reason, failed.value.code) == ("ModelNotServed", ExitCode.BAD_SPEC)
    assert f"serves org/another, and none is the run's {tiny_model}" in str(failed.value)
    assert f"under the name {tiny_model.name} (vllm serve … --served-model-name)" in str(failed.value)


def test_a_server_that_loads_no_adapters_is_told_with_the_remedy(
    session: ModelSession, lora: Path, server: Server
) -> None:
    server.loads_adapters = False
    with (
        pytest.raises(StageFailed, match=r"cannot load adapters; start vLLM with --enable-lora") as failed,
        opened_engine(session, asking(server), lora),
    ):
        pass
    assert (failed.value.reason, failed.value.code) == ("EngineRefused", ExitCode.BAD_SPEC)
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING=true" in str(failed.value)


def test_a_server_that_does_not_see_the_adapters_folder_is_told_with_the_remedy(
    session: ModelSession, lora: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "is_dir", lambda _: False)
    with (
        pytest.raises(StageFailed, match=r"No adapter found.*same path \(move it with EVOLUTION_CACHE\)") as failed,
        opened_engine(session, asking(server), lora),
    ):
        pass
    assert failed.value.code == ExitCode.BAD_SPEC


def test_workers_of_a_run_share_an_adapter_and_none_takes_it_from_another(
    session: ModelSession, lora: Path, server: Server, prompts: list[list[int]]
) -> None:
    with opened_engine(session, asking(server), lora) as engine:
        alone = engine.generate(prompts, SEEDS, **GREEDY)
        with opened_engine(session, asking(server), lora):
            assert server.times("load_lora_adapter") == 1
        assert list(server.models) == [server.name]
        assert engine.generate(prompts, SEEDS, **GREEDY) == alone
    assert list(server.models) == [server.name]


def test_the_key_of_the_environment_is_given(
    session: ModelSession, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.key = "a-key"
    with pytest.raises(StageFailed, match="set OPENAI_API_KEY") as failed, opened_engine(session, asking(server), None):
        pass
    assert failed.value.code == ExitCode.BAD_SPEC
    for key in ("a-key", "a-key\n"):  # a Secret made of a file often ends with a line break
        monkeypatch.setenv("OPENAI_API_KEY", key)
        with opened_engine(session, asking(server), None) as engine:
            assert engine.generate([[5, 6]], [1], **GREEDY)


@pytest.mark.parametrize("key", ["two\nlines", "schlüssel-\u4e00"])
def test_a_key_that_no_header_can_hold_is_refused_without_being_told(
    session: ModelSession, server: Server, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(StageFailed, match="OPENAI_API_KEY") as failed, opened_engine(session, asking(server), None):
        pass
    assert failed.value.code == ExitCode.BAD_SPEC
    assert key not in str(failed.value)


def test_what_a_server_computes_is_not_counted_as_the_worker_s_operations(bench: Bench, server: Server) -> None:
    items = bench.put([{"id": "1", "question": "What is 7?", "answer": "seven"}])
    stage = replace(bench.stage(EVALUATE, items=items), compute=asking(server))
    assert stage.session.base is not None  # read by a stage before
    evaluate.run(stage)
    assert stage.usage.tokens_out > 0
    assert stage.usage.flops == 0


def test_a_refused_completion_ends_the_stage_with_what_the_server_says(session: ModelSession, server: Server) -> None:
    server.refusals = [400] * 1000
    with (
        pytest.raises(StageFailed, match=r"refuses a completion by .*HTTP 400: not now") as failed,
        opened_engine(session, asking(server), None) as engine,
    ):
        engine.generate([[5, 6]] * 100, [1] * 100, **GREEDY)
    assert (failed.value.reason, failed.value.code) == ("EngineRefused", ExitCode.BAD_SPEC)


def test_something_that_is_no_such_api_is_told(session: ModelSession, server: Server) -> None:
    elsewhere = Compute(engine="OpenAI", endpoint=server.url.removesuffix("/v1"))
    with (
        pytest.raises(StageFailed, match=r"does not list its models: .*give the URL that ends in /v1"),
        opened_engine(session, elsewhere, None),
    ):
        pass
