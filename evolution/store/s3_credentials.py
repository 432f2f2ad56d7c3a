"""Who this process is to an S3 server: the keys in the environment, or keys for a while in exchange for a token.

A token is what a cluster gives a service account, in the file AWS_WEB_IDENTITY_TOKEN_FILE. It goes to the server's
security token service (AssumeRoleWithWebIdentity): AWS_ENDPOINT_URL_STS, else Amazon's for Amazon's S3, and else the
S3 server itself. AWS_ROLE_ARN names the role to take, where the server has several; AWS_ROLE_SESSION_NAME the session.
"""

import os
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlencode, urlsplit
from xml.etree import ElementTree

import urllib3
from minio.credentials.credentials import Credentials
from minio.credentials.providers import Provider, StaticProvider

from evolution.store.base import StoreRefused, StoreUnavailable

RENEW_AFTER = 0.75
"""Share of their life after which keys are exchanged for new ones."""
_BUSY = (429, 500, 502, 503, 504)
_EXPLANATIONS: Mapping[str, str] = {
    "AccessDenied": "the role is not open to this service account",
    "InvalidIdentityToken": "it does not trust who issued the token",
    "ExpiredToken": "the token has expired",
    "ExpiredTokenException": "the token has expired",
    "InvalidParameterValue": "it does not know such a role or token",
}


def provider(uri: str, endpoint: str, connections: urllib3.PoolManager) -> Provider:
    """Of credentials to reach `uri` on the server at `endpoint`.

    Raises:
        StoreRefused: the environment has neither keys nor a token.
    """
    keys = {name: os.environ.get(name, "") for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    missing = [name for name, value in keys.items() if not value]
    if not missing:
        access, secret = keys.values()
        session = os.environ.get("AWS_SESSION_TOKEN") or None
        return StaticProvider(access_key=access, secret_key=secret, session_token=session)
    token = os.environ.get("AWS_WEB_IDENTITY_TOKEN_FILE", "")
    if token and len(missing) == len(keys):
        return WebIdentity(uri, Path(token), _token_service(endpoint), connections)
    raise StoreRefused(
        f"{uri} needs credentials: {' and '.join(missing)} not set in the environment"
        + (", and no AWS_WEB_IDENTITY_TOKEN_FILE in their place" if len(missing) == len(keys) else "")
    )


class WebIdentity(Provider):
    """Keys of a role, for as long as the server gives them, and then new ones."""

    def __init__(self, uri: str, token: Path, service: str, connections: urllib3.PoolManager) -> None:
        self._uri = uri
        self._token = token
        self._service = service
        self._connections = connections
        self._lock = threading.Lock()
        self._known: Credentials | None = None
        self._renew_at = 0.0

    def retrieve(self) -> Credentials:
        """
        Raises:
            StoreRefused: there is no token, or it is not accepted.
            StoreUnavailable: the service does not answer.
        """
        with self._lock:
            if self._known is None or time.time() >= self._renew_at:
                asked_at = time.time()
                self._known, expires_at = self._exchange()
                self._renew_at = asked_at + RENEW_AFTER * (expires_at - asked_at)
            return self._known

    def _exchange(self) -> tuple[Credentials, float]:
        """The keys, and when they expire."""
        try:
            token = self._token.read_text().strip()  # anew each time: the kubelet replaces it
        except OSError as error:
            raise StoreRefused(
                f"{self._uri} needs credentials: the token in AWS_WEB_IDENTITY_TOKEN_FILE cannot be read "
                f"({self._token}: {error.strerror or error})"
            ) from error
        role = os.environ.get("AWS_ROLE_ARN", "")
        fields = {"Action": "AssumeRoleWithWebIdentity", "Version": "2011-06-15", "WebIdentityToken": token}
        if role:
            fields |= {"RoleArn": role, "RoleSessionName": os.environ.get("AWS_ROLE_SESSION_NAME") or "evolution"}
        try:
            # In the body: servers and proxies write addresses into their logs.
            answer = self._connections.request(
                "POST",
                self._service,
                body=urlencode(fields),
                headers={"Content-Type": "application/x-www-form-urlencoded"},
            )
        except urllib3.exceptions.HTTPError as error:
            reason = error.reason if isinstance(error, urllib3.exceptions.MaxRetryError) else error
            raise StoreUnavailable(f"{self._uri}: no credentials, {self._service} does not answer ({reason})") from None
        if answer.status in _BUSY:
            raise StoreUnavailable(f"{self._uri}: no credentials, {self._service} is busy (HTTP {answer.status})")
        found = _texts(answer.data)
        try:
            if answer.status != 200:
                raise KeyError
            expires_at = datetime.fromisoformat(found["Expiration"])
            keys = Credentials(found["AccessKeyId"], found["SecretAccessKey"], found["SessionToken"])
        except (KeyError, ValueError):
            code = found.get("Code", "")
            said = f"{code}, {_EXPLANATIONS[code]}" if code in _EXPLANATIONS else code or "no answer of such a service"
            raise StoreRefused(
                f"{self._uri}: {self._service} gives no credentials for the service account's token"
                + (f" and role {role}" if role else "")
                + f" (HTTP {answer.status}: {said})"
            ) from None
        return keys, expires_at.replace(tzinfo=expires_at.tzinfo or UTC).timestamp()


def _token_service(endpoint: str) -> str:
    if given := os.environ.get("AWS_ENDPOINT_URL_STS", ""):
        return given
    host = urlsplit(endpoint).hostname or ""
    if not host.endswith((".amazonaws.com", ".amazonaws.com.cn")):
        return endpoint
    region = os.environ.get("AWS_REGION", "")
    domain = "amazonaws.com.cn" if host.endswith(".cn") else "amazonaws.com"
    return f"https://sts.{region}.{domain}/" if region else f"https://sts.{domain}/"


def _texts(answer: bytes) -> dict[str, str]:
    """Text of each element by its name; empty if it is no XML."""
    try:
        elements = ElementTree.fromstring(answer).iter()
    except ElementTree.ParseError:
        return {}
    return {element.tag.rpartition("}")[2]: element.text or "" for element in elements}
