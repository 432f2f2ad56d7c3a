"""A store without keys of its own: a service account's token is exchanged for keys, again and again."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from minio_server import MinioBucket
from token_service import ROLE, TokenService, token_service

from evolution.store import s3_credentials
from evolution.store.base import StoreRefused, StoreUnavailable
from evolution.store.s3 import S3Store

TOKEN = "eyJhbGciOiJSUzI1NiJ9.the-token-of-a-service-account"


@pytest.fixture
def token(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    return file


@pytest.fixture
def service(minio: MinioBucket, token: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TokenService]:
    """Trusts the token; the environment names both, and no keys."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with token_service(minio.server) as service:
        service.trusted.add(TOKEN)
        monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(token))
        monkeypatch.setenv("AWS_ROLE_ARN", ROLE)
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", service.endpoint)
        yield service


@pytest.mark.minio
def test_a_store_works_with_the_keys_that_a_token_is_worth(service: TokenService, minio: MinioBucket) -> None:
    store = S3Store(minio.bucket, "team-a")
    assert store.create("a", b"first")
    assert not store.create("a", b"second")
    assert store.read("a") == b"first"
    assert [found.key for found in store.list("")] == ["a"]
    ((path, asked),) = service.asked
    assert TOKEN not in path
    assert asked == {
        "Action": "AssumeRoleWithWebIdentity",
        "Version": "2011-06-15",
        "WebIdentityToken": TOKEN,
        "RoleArn": ROLE,
        "RoleSessionName": "evolution",
    }


@pytest.mark.minio
def test_keys_are_renewed_before_they_expire_with_the_token_that_is_there_then(
    service: TokenService, minio: MinioBucket, token: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = S3Store(minio.bucket, "team-a")
    store.write("a", b"x")
    started = time.time()
    token.write_text("the-next-token")
    service.trusted = {"the-next-token"}
    for passed, exchanges in ((0.7, 1), (0.8, 2)):
        monkeypatch.setattr(time, "time", lambda passed=passed: started + passed * service.seconds)
        assert store.read("a") == b"x"
        assert len(service.given) == exchanges
    assert len(set(service.given)) == 2


@pytest.mark.minio
def test_a_token_that_is_not_accepted_is_told_and_not_repeated(service: TokenService, minio: MinioBucket) -> None:
    service.trusted.clear()
    store = S3Store(minio.bucket, "team-a")
    for action in (lambda: store.read("a"), lambda: store.write("a", b""), lambda: store.create("a", b"")):
        with pytest.raises(StoreRefused) as refused:
            action()
        assert str(refused.value) == (
            f"{store.uri}: {service.endpoint} gives no credentials for the service account's token and role {ROLE} "
            "(HTTP 403: AccessDenied, the role is not open to this service account)"
        )


@pytest.mark.minio
def test_what_is_no_token_service_is_said_to_be_none(
    service: TokenService, minio: MinioBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TokenService, "answer", lambda *_: (200, "<html><p>Welcome</html>"))
    with pytest.raises(StoreRefused, match=r"\(HTTP 200: no answer of such a service\)"):
        S3Store(minio.bucket).read("a")
    assert service.given == []


def test_a_service_that_does_not_answer_is_unavailable(token: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL_STS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("evolution.store.s3.ATTEMPTS", 1)
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(token))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        # MinIO, and most servers but Amazon's, are their own token service.
        monkeypatch.setenv("EVOLUTION_S3_ENDPOINT", f"http://127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(StoreUnavailable, match=r"no credentials, http://127.0.0.1:\d+ does not answer") as told:
            S3Store("bucket").write("a", b"")
    assert TOKEN not in str(told.value)


@pytest.mark.parametrize(
    ("endpoint", "region", "service"),
    [
        ("https://s3.amazonaws.com", "", "https://sts.amazonaws.com/"),
        ("https://s3.eu-west-1.amazonaws.com", "eu-west-1", "https://sts.eu-west-1.amazonaws.com/"),
        ("https://s3.cn-north-1.amazonaws.com.cn", "cn-north-1", "https://sts.cn-north-1.amazonaws.com.cn/"),
        ("https://minio.example.com:9000", "us-east-1", "https://minio.example.com:9000"),
    ],
)
def test_the_token_service_follows_from_the_endpoint(
    endpoint: str, region: str, service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL_STS", raising=False)
    monkeypatch.setenv("AWS_REGION", region)
    assert s3_credentials._token_service(endpoint) == service


def test_without_keys_and_token_both_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_WEB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(StoreRefused, match=r"not set in the environment, and no AWS_WEB_IDENTITY_TOKEN_FILE in their"):
        S3Store("bucket")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "none"))
    with pytest.raises(StoreRefused, match=r"AWS_WEB_IDENTITY_TOKEN_FILE cannot be read \(.*none: No such"):
        S3Store("bucket").read("a")
