"""Teams in one object store: with the keys of examples/tenancy each does all that it needs, and nothing to another."""

import json
import os
import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from minio import Minio
from minio.commonconfig import CopySource
from minio.credentials.providers import StaticProvider
from minio.error import S3Error
from minio.minioadmin import MinioAdmin
from minio_server import ACCESS_KEY, SECRET_KEY, MinioServer

from evolution.plan.manifest import Artifact, Manifest
from evolution.plan.stage import Kind
from evolution.store import garbage, keys
from evolution.store.artifacts import Artifacts
from evolution.store.base import ObjectStore, StoreRefused
from evolution.store.open import open_store
from evolution.store.probe import race
from evolution.store.sources import SourceUnusable, local_copy
from evolution_trainer import publish

pytestmark = pytest.mark.minio

TENANCY = Path(__file__).parents[2] / "examples" / "tenancy"
BUCKETS = ("evolution", "models", "corpora", "adapters")
LARGE = 9 << 20
"""Bytes; more than go in one part."""


@dataclass(frozen=True)
class Tenants:
    """Two teams that have their keys by examples/tenancy, and buckets with something in them."""

    server: MinioServer
    buckets: dict[str, str]
    """By their names in the examples."""
    secrets: dict[str, str]
    """By team."""

    def become(self, team: str, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in self.environment(team).items():
            monkeypatch.setenv(name, value)

    def environment(self, team: str) -> dict[str, str]:
        keys = {"AWS_ACCESS_KEY_ID": team, "AWS_SECRET_ACCESS_KEY": self.secrets[team]}
        return {**self.server.environment, **keys}

    def client(self, team: str) -> Minio:
        return Minio(self.server.endpoint.removeprefix("http://"), team, self.secrets[team], secure=False)

    def store(self, team: str) -> ObjectStore:
        return open_store(self.uri(f"evolution/runs/{team}"))

    def uri(self, place: str) -> str:
        bucket, _, path = place.partition("/")
        return f"s3://{self.buckets[bucket]}/{path}".rstrip("/")


@pytest.fixture(scope="module")
def tenants(minio_server: MinioServer) -> Iterator[Tenants]:
    mark = uuid.uuid4().hex[:8]
    tenants = Tenants(
        minio_server,
        {name: f"{name}-{mark}" for name in BUCKETS},
        {team: f"only-of-{team}" for team in ("team-a", "team-b", "operator")},
    )
    admin = MinioAdmin(
        endpoint=minio_server.endpoint.removeprefix("http://"),
        credentials=StaticProvider(ACCESS_KEY, SECRET_KEY),
        secure=False,
    )
    for bucket in tenants.buckets.values():
        minio_server.client.make_bucket(bucket)
    for team, secret in tenants.secrets.items():
        file = "policy-operator.json" if team == "operator" else "policy-team-a.json"
        policy = (TENANCY / file).read_text().replace("team-a", team)
        policy = re.sub(r"arn:aws:s3:::([a-z]+)", lambda found: f"arn:aws:s3:::{tenants.buckets[found[1]]}", policy)
        admin.user_add(team, secret)
        admin.policy_add(f"{team}-{mark}", policy=json.loads(policy))
        admin.policy_set(f"{team}-{mark}", user=team)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in minio_server.environment.items():
            patch.setenv(name, value)
        for place in ("models/base", "corpora/shared/manuals", "corpora/team-a/manuals", "corpora/team-b/manuals"):
            open_store(tenants.uri(place)).write("a.txt", place.encode())
        for team in ("team-a", "team-b"):
            for key in (f"stages/{'0' * 64}.json", "stages/of-it.json", "runs/mine/history.json"):
                tenants.store(team).write(key, team.encode())
    yield tenants
    for team in tenants.secrets:
        admin.user_remove(team)


def test_a_worker_does_all_that_its_stages_need(
    tenants: Tenants, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tenants.become("team-a", monkeypatch)
    for place in ("models/base", "corpora/shared/manuals", "corpora/team-a/manuals", "corpora/team-a/manuals/a.txt"):
        copy = local_copy(tenants.uri(place), tmp_path / "cache")
        assert (copy if copy.is_file() else copy / "a.txt").read_text() == place.removesuffix("/a.txt")

    store = tenants.store("team-a")
    artifacts = Artifacts(store, tmp_path / "cache")
    large = tmp_path / "adapter" / "model.safetensors"
    large.parent.mkdir()
    large.write_bytes(os.urandom(LARGE))
    (large.parent / "adapter_config.json").write_text("{}")
    pairs, adapter = artifacts.put_file(large), artifacts.put_tree(large.parent)
    first, second = (manifest(attempt, {"pairs": pairs, "adapter": adapter}) for attempt in (1, 2))
    assert artifacts.commit(first) == (first, True)
    assert artifacts.commit(second) == (first, False)
    assert artifacts.fetch(pairs.digest).read_bytes() == large.read_bytes()
    assert artifacts.manifest("1" * 64) is None
    store.write(keys.progress("demo-12345678", first.fingerprint), b"{}")
    stray = artifacts.put_file(large.parent / "adapter_config.json")
    removed = garbage.remove(artifacts, garbage.collect(artifacts, {first.fingerprint}, grace=0), grace=0)
    assert removed.manifests == ("0" * 64,)
    assert artifacts.fetch(stray.digest).read_text() == "{}", "which the adapter has as well"

    uri = tenants.uri("adapters/team-a/telecom")
    published = SimpleNamespace(
        parameters={"uri": uri, "model": "s3://models/base"},
        inputs={"adapter": adapter.digest},
        artifacts=artifacts,
        scratch=tmp_path,
        progress=lambda *_: None,
    )
    assert publish.run(published).metrics["files"] == 2
    assert {found.key for found in open_store(uri).list("")} == {"adapter_config.json", "model.safetensors"}
    artifacts.discard(first, damaged=[])
    assert artifacts.manifest(first.fingerprint) is None


@pytest.mark.slow
def test_of_32_writers_with_these_keys_exactly_one_wins(tenants: Tenants, monkeypatch: pytest.MonkeyPatch) -> None:
    tenants.become("team-a", monkeypatch)
    won = race(tenants.store("team-a").uri, "probe/race/", writers=32, rounds=5)
    assert [len(winners) for winners in won] == [1] * 5


def test_a_worker_is_refused_whatever_it_tries_on_another_team(
    tenants: Tenants, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tenants.become("team-a", monkeypatch)
    theirs = tenants.store("team-b")
    large = tmp_path / "large"
    large.write_bytes(b"\0" * LARGE)
    tries: list[tuple[Callable[[], Any], str, str]] = [
        (lambda: theirs.read("stages/of-it.json"), "cannot read stages/of-it.json", "s3:GetObject"),
        (lambda: theirs.read("stages/not-there.json"), "cannot read stages/not-there.json", "s3:GetObject"),
        (lambda: theirs.stat("stages/of-it.json"), "cannot read stages/of-it.json", "s3:GetObject"),
        (lambda: theirs.download("stages/of-it.json", tmp_path / "it"), "cannot read", "s3:GetObject"),
        (lambda: theirs.write("stages/of-it.json", b"mine"), "cannot write stages/of-it.json", "s3:PutObject"),
        (lambda: theirs.create("stages/mine.json", b"mine"), "cannot write probe/", "s3:PutObject"),
        (lambda: theirs.upload(large, "blobs/large"), "cannot write blobs/large", "s3:PutObject"),
        (lambda: theirs.delete("stages/of-it.json"), "cannot delete stages/of-it.json", "s3:DeleteObject"),
        (lambda: list(theirs.list("")), "cannot list ", "s3:ListBucket"),
        (lambda: list(open_store(tenants.uri("evolution/runs")).list("team-b/")), "cannot list", "s3:ListBucket"),
        (lambda: list(open_store(tenants.uri("evolution")).list("")), "cannot list", "s3:ListBucket"),
        (lambda: open_store(tenants.uri("adapters/team-b")).write("a", b""), "cannot write a", "s3:PutObject"),
        (lambda: open_store(tenants.uri("corpora/shared")).write("a.txt", b""), "cannot write a.txt", "s3:PutObject"),
        (lambda: open_store(tenants.uri("models/base")).delete("a.txt"), "cannot delete a.txt", "s3:DeleteObject"),
    ]
    for attempt, failed, right in tries:
        with pytest.raises(StoreRefused) as refused:
            attempt()
        assert failed in str(refused.value)
        assert f"the credentials do not allow it; their policy has to allow {right} there (AccessDenied)" in str(
            refused.value
        )
        assert "only-of-team-a" not in str(refused.value)
    for place in ("corpora/team-b/manuals", "corpora/team-b", "corpora", "evolution/runs/team-b/stages/of-it.json"):
        with pytest.raises(SourceUnusable, match="has to allow s3:ListBucket and s3:GetObject there"):
            local_copy(tenants.uri(place), tmp_path / "cache", waiting=nullcontext)

    tenants.become("team-b", monkeypatch)
    assert tenants.store("team-b").read("stages/of-it.json") == b"team-b"


def test_requests_that_no_worker_makes_are_refused_too(tenants: Tenants) -> None:
    mine, bucket = tenants.client("team-a"), tenants.buckets["evolution"]
    theirs = "runs/team-b/stages/of-it.json"
    tries: list[Callable[[], Any]] = [
        lambda: mine.copy_object(bucket, "runs/team-a/copy", CopySource(bucket, theirs)),
        lambda: mine.copy_object(bucket, "runs/team-b/copy", CopySource(bucket, "runs/team-a/stages/of-it.json")),
        lambda: mine._create_multipart_upload(bucket, "runs/team-b/parts", {}),
        lambda: list(mine.list_objects(bucket, "runs/team-", recursive=True)),
        lambda: list(mine.list_objects(bucket, "runs/team-a/../team-b/", recursive=True)),
        lambda: mine.set_bucket_policy(bucket, "{}"),
        lambda: mine.get_bucket_policy(bucket),
        lambda: mine.remove_bucket(bucket),
        lambda: mine.make_bucket("of-team-a"),
    ]
    for attempt in tries:
        with pytest.raises(S3Error) as refused:
            attempt()
        assert (refused.value.response.status, refused.value.code) in {
            (403, "AccessDenied"),
            (400, "XMinioInvalidObjectName"),
            (400, "XMinioInvalidResourceName"),
        }
    for error in mine.remove_objects(bucket, iter([])):
        raise AssertionError(error)
    assert tenants.server.client.get_object(bucket, theirs).data == b"team-b"


def test_the_operator_reaches_what_every_team_made_and_none_of_their_sources(
    tenants: Tenants, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenants.become("operator", monkeypatch)
    for team in ("team-a", "team-b"):
        assert tenants.store(team).read("runs/mine/history.json") == team.encode()
        tenants.store(team).write("runs/mine/history.json", team.encode())
    with pytest.raises(StoreRefused):
        open_store(tenants.uri("corpora/team-a/manuals")).read("a.txt")


def manifest(attempt: int, outputs: dict[str, Artifact]) -> Manifest:
    return Manifest(
        fingerprint="f" * 64,
        kind=Kind.TRAIN,
        semantics=1,
        round=1,
        parameters={},
        inputs={},
        outputs=outputs,
        metrics={},
        attempt=attempt,
    )
