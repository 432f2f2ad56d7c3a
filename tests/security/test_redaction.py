"""Nothing that a run leaves behind holds credentials, and what is not data holds no text of a document."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from pathlib import Path

import pytest
from minio_server import MinioBucket
from small_run import Workplace, small_workplace

from evolution.redaction import SECRETS, RedactedStream, redacted
from evolution.store.open import open_store

SENTENCE = "The zyxquark valve of pump seven opens at 4242 bar"
DATA = "blobs/"
"""What documents and pairs are kept in; all else is for people and for bookkeeping."""


@pytest.mark.parametrize("name", SECRETS)
def test_the_values_of_secret_variables_are_left_out(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "planted/secret+of=mine")
    assert redacted("401: planted/secret+of=mine is no key") == "401: … is no key"
    monkeypatch.setenv(name, "the")
    assert redacted("the key") == "the key"


@pytest.mark.parametrize(
    ("said", "left"),
    [
        (
            "PUT /b/k?X-Amz-Credential=AKIA%2F20&X-Amz-Signature=0a1b failed",
            "PUT /b/k?X-Amz-Credential=…&X-Amz-Signature=… failed",
        ),
        ("x?X-Amz-Security-Token=abc", "x?X-Amz-Security-Token=…"),
        ("sts?WebIdentityToken=eyJh.bc&Version=1", "sts?WebIdentityToken=…&Version=1"),
        ("Authorization: Bearer eyJhbGciOi.abc", "Authorization: Bearer …"),
        ("no answer from https://me:secret@host/path", "no answer from https://…@host/path"),
        ("no object at s3://AKIA0000:secret@bucket/key", "no object at s3://…@bucket/key"),
        ("hf://org/model@main has no commit", "hf://org/model@main has no commit"),
        ("write to me@example.com, see https://host/@me", "write to me@example.com, see https://host/@me"),
    ],
)
def test_credentials_are_known_by_their_shape(said: str, left: str) -> None:
    assert redacted(said) == left


def test_a_log_is_redacted_as_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_planted_secret")
    log = StringIO()
    print("a\n", "the token hf_planted_secret is wrong", file=RedactedStream(log))  # type: ignore[call-overload]
    assert log.getvalue() == "a\n the token … is wrong\n"


@pytest.fixture
def echo() -> Iterator[str]:
    """A server of models that lets nobody in, and repeats what it was sent."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            said = {"error": {"message": f"wrong key in {dict(self.headers)}", "key": self.headers["Authorization"]}}
            text = json.dumps(said).encode()
            self.send_response(401)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}/v1"
        listening.shutdown()
        thread.join()


@pytest.mark.ship
@pytest.mark.minio
def test_a_run_with_planted_secrets_leaves_none_of_them_behind(tmp_path: Path, minio: MinioBucket, echo: str) -> None:
    planted = {name: f"planted-{name.lower()}-0123456789" for name in SECRETS if not name.startswith("AWS_")}
    keys = minio.server.environment
    secrets = [*planted.values(), keys["AWS_SECRET_ACCESS_KEY"]]
    small_workplace(tmp_path)
    (tmp_path / "documents" / "valve.txt").write_text(f"{SENTENCE}. Nobody has seen it open.\n")
    place = Workplace(tmp_path, f"{minio.uri}/evolution", {**keys, **planted})
    said = {"run": place.evolve("run")}
    assert said["run"].returncode == 0, said["run"].stderr
    for command in ("status", "plan", "validate"):
        said[command] = place.evolve(command)
    place.edit({"seed": 8})
    said["engine"] = place.evolve("run", "--engine", "openai", "--endpoint", echo)
    assert said["engine"].returncode != 0
    assert "does not let this worker in" in said["engine"].stderr
    assert "Bearer …" in said["engine"].stderr, "the server's own words are passed on"
    refused = Workplace(tmp_path, place.store, {**place.environment, "AWS_SECRET_ACCESS_KEY": "planted-and-wrong-key"})
    said["refused"] = refused.evolve("run")
    assert said["refused"].returncode != 0
    secrets.append("planted-and-wrong-key")

    told = {name: done.stdout + done.stderr for name, done in said.items()}
    told |= {str(log): log.read_text(errors="replace") for log in (tmp_path / "cache" / "logs").rglob("*.log")}
    assert any(name.endswith(".log") for name in told)
    store = open_store(f"{place.store}/default")
    objects = {found.key: store.read(found.key) or b"" for found in store.list("")}
    told |= {key: data.decode(errors="replace") for key, data in objects.items() if not key.startswith(DATA)}
    assert {key.split("/")[0] for key in objects} >= {"blobs", "stages", "runs"}
    for name, text in told.items():
        assert SENTENCE[:20] not in text, name
        assert not [secret for secret in secrets if secret in text], name
    for key, data in objects.items():
        assert not [secret for secret in secrets if secret.encode() in data], key
