"""Models and data of a commit on the Hugging Face Hub, fetched as a worker does it, from a stand-in on this machine."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hub_server import COMMIT, HubServer

FETCH = """
import json, sys, time
from pathlib import Path
from evolution.store.sources import local_copy
time.sleep = lambda seconds: None  # of the hub's library between two attempts
said = []
try:
    path = local_copy(sys.argv[1], Path(sys.argv[2]), lambda *told: said.append(told))
    print(json.dumps({"path": str(path), "said": said}))
except Exception as error:
    print(json.dumps({"error": type(error).__name__, "message": str(error)}))
"""
WEIGHTS = bytes(range(256)) * 20_000
MODEL = {
    ".gitattributes": b"*.safetensors lfs",
    "README.md": b"# A model",
    "config.json": b"{}",
    "tokenizer.json": b'{"version": "1.0"}',
    "merges.txt": b"a b",
    "chat_template.jinja": b"{{ messages }}",
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"pickled",
    "modeling_own.py": b"print('code')",
    "onnx/model.safetensors": b"again",
    "onnx/config.json": b"{}",
}
DATA = {
    "README.md": b"# A data set",
    "manuals/pump.md": "# Pump 泵".encode(),
    "manuals/deep/valve.txt": b"Valve",
    "manuals/photo.png": b"png",
    "eval/items.jsonl": b'{"question": "q", "answer": "a"}',
}


@dataclass
class Machine:
    """One with a cache, and the hub as its only way out."""

    folder: Path
    hub: HubServer

    def fetch(self, uri: str, **environment: str) -> dict[str, Any]:
        """What a process says that fetches it: path and what was said, or error and message."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        surroundings = {"HF_ENDPOINT": self.hub.endpoint, "HF_HOME": str(self.folder / "hf"), **environment}
        command = [sys.executable, "-c", FETCH, uri, str(self.folder / "cache")]
        done = subprocess.run(command, env=kept | surroundings, capture_output=True, text=True, timeout=120, check=True)
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def fetched(self, uri: str, **environment: str) -> Path:
        answer = self.fetch(uri, **environment)
        assert "path" in answer, answer
        return Path(answer["path"])


@pytest.fixture
def model(tmp_path: Path) -> Iterator[Machine]:
    with HubServer("org/tiny", MODEL) as hub:
        yield Machine(tmp_path, hub)


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Machine]:
    with HubServer("datasets/org/manuals", DATA) as hub:
        yield Machine(tmp_path, hub)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def names(folder: Path) -> set[str]:
    return set(contents(folder))


URI = f"hf://org/tiny@{COMMIT}"
DATA_URI = f"hf://datasets/org/manuals@{COMMIT}"
USED = {"config.json", "tokenizer.json", "merges.txt", "chat_template.jinja", "model.safetensors"}


def test_a_model_comes_without_pickles_code_and_other_models_and_then_needs_no_network(model: Machine) -> None:
    answer = model.fetch(URI, HF_TOKEN="hf_secret")
    folder = Path(answer["path"])
    assert contents(folder) == {name: MODEL[name] for name in USED}
    assert set(model.hub.downloads) == USED
    assert model.hub.tokens == {"Bearer hf_secret"}
    assert answer["said"][-1] == ["MB downloaded", 6, 6, "5 files"]
    assert model.fetched(URI, HF_HUB_OFFLINE="1") == model.fetched(URI) == folder
    assert model.hub.requests == []


def test_a_folder_of_a_commit_is_a_model_of_its_own(model: Machine) -> None:
    assert names(model.fetched(f"{URI}/onnx")) == {"config.json", "model.safetensors"}


def test_a_broken_download_is_taken_up_where_it_broke(model: Machine) -> None:
    large = WEIGHTS * 5
    model.hub.files["model.safetensors"] = large
    model.hub.cut_downloads = 1
    assert (model.fetched(URI) / "model.safetensors").read_bytes() == large
    first, then = (name for name in model.hub.downloads if "safetensors" in name)
    assert first == "model.safetensors"
    assert then.startswith("model.safetensors bytes=10")


def test_a_listing_that_does_not_come_is_given_up_and_asked_for_again(model: Machine) -> None:
    model.hub.silent = 1
    assert names(model.fetched(URI, HF_HUB_DOWNLOAD_TIMEOUT="1")) == USED


def test_files_that_were_complete_when_a_download_failed_are_not_downloaded_again(model: Machine) -> None:
    model.hub.cut_downloads = 1_000
    assert model.fetch(URI)["error"] == "StoreUnavailable"
    model.hub.cut_downloads = 0
    finished = {path.name for path in model.folder.glob("hf/hub/*/snapshots/*/*")}
    assert model.hub.downloads
    model.fetched(URI)
    assert set(model.hub.downloads) == USED - finished


def test_what_arrives_otherwise_than_announced_is_never_used(model: Machine) -> None:
    model.hub.damaged = {"model.safetensors"}
    answer = model.fetch(URI)
    assert answer["error"] == "StoreUnavailable"
    assert "not what the hub announces, by its digest: model.safetensors" in answer["message"]
    model.hub.damaged = set()
    assert (model.fetched(URI) / "model.safetensors").read_bytes() == WEIGHTS


def test_a_cache_that_was_damaged_is_mended(model: Machine) -> None:
    weights = model.fetched(URI) / "model.safetensors"
    weights.write_bytes(bytes(len(WEIGHTS)))
    assert (model.fetched(URI) / "model.safetensors").read_bytes() == WEIGHTS


def test_documents_of_a_data_set_come_without_its_card(data: Machine) -> None:
    assert names(data.fetched(DATA_URI)) == {"manuals/pump.md", "manuals/deep/valve.txt", "eval/items.jsonl"}
    assert contents(data.fetched(f"{DATA_URI}/manuals/")) == {
        "pump.md": "# Pump 泵".encode(),
        "deep/valve.txt": b"Valve",
    }
    items = data.fetched(f"{DATA_URI}/eval/items.jsonl")
    assert (items.name, items.read_bytes()) == ("items.jsonl", DATA["eval/items.jsonl"])


@pytest.mark.parametrize(
    ("refusal", "error", "said"),
    [
        ((403, "GatedRepo"), "SourceUnusable", ["open only to those whom its owners let in", "/org/tiny", "HF_TOKEN"]),
        ((401, "RepoNotFound"), "SourceUnusable", ["there is no model at", "or it is private: no HF_TOKEN is set"]),
        ((404, "RevisionNotFound"), "SourceUnusable", [f"has no commit {COMMIT}", "git ls-remote", "HEAD"]),
        ((401, ""), "StoreRefused", ["does not accept the token in HF_TOKEN"]),
        ((503, ""), "StoreUnavailable", ["is overloaded or not ready (HTTP 503)"]),
    ],
)
def test_what_a_hub_refuses_is_told_with_the_way_out(
    model: Machine, refusal: tuple[int, str], error: str, said: list[str]
) -> None:
    model.hub.refusal = refusal
    answer = model.fetch(URI)
    assert answer["error"] == error, answer
    assert [part for part in said if part not in answer["message"]] == [], answer["message"]


def test_a_hub_that_does_not_answer_is_tried_again_and_one_that_must_not_be_asked_is_not(model: Machine) -> None:
    nobody = model.fetch(URI, HF_ENDPOINT="http://me:secret@127.0.0.1:9")
    assert (nobody["error"], "http://127.0.0.1:9 does not answer" in nobody["message"]) == ("StoreUnavailable", True)
    offline = model.fetch(URI, HF_HUB_OFFLINE="1")
    assert offline["error"] == "SourceUnusable"
    assert "HF_HUB_OFFLINE forbids the network; unset it" in offline["message"]
    assert f"hf download org/tiny --revision {COMMIT}" in offline["message"]
    assert model.hub.requests == []


def test_names_that_lead_out_of_a_commit_are_refused(data: Machine) -> None:
    data.hub.files["manuals/../../escaped.md"] = b"elsewhere"
    answer = data.fetch(f"{DATA_URI}/manuals")
    assert answer["error"] == "SourceUnusable", answer
    assert "'manuals/../../escaped.md'" in answer["message"]
    assert list(data.folder.rglob("escaped.md")) == []


def test_what_cannot_be_used_is_refused_before_it_is_downloaded(model: Machine) -> None:
    del model.hub.files["model.safetensors"]
    pickled = model.fetch(URI)
    assert pickled["error"] == "SourceUnusable"
    assert "only weights are pickled (pytorch_model.bin)" in pickled["message"]
    nothing = model.fetch(f"{URI}/8bit")
    assert "there is no '8bit' in that commit, which holds .gitattributes, README.md" in nothing["message"]
    assert model.hub.downloads == []
