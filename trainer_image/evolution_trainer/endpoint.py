"""Requests to an OpenAI-compatible API, tried again while the server is busy or away.

The key, if the server wants one, comes from OPENAI_API_KEY; SSL_CERT_FILE names a certificate authority of one's own.
"""

import json
import os
import threading
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import certifi
import urllib3

from evolution.plan.worker import ExitCode
from evolution_trainer.failure import StageFailed

CONCURRENCY = 64
"""Requests under way at once."""
ATTEMPTS = 6
FIRST_PAUSE = 1.0
"""Seconds before the second attempt; each further pause is twice as long."""
LONGEST_PAUSE = 60.0
"""Seconds; more than that a server's Retry-After cannot ask for."""
CONNECT_TIMEOUT = 10.0
"""Seconds."""
READ_TIMEOUT = 300.0
"""Seconds without an answer."""
BUSY = frozenset({408, 429, 500, 502, 503, 504})
"""Statuses after which a request is tried again."""


@dataclass(frozen=True)
class Response:
    status: int
    body: Any
    """Parsed JSON, or text."""

    @property
    def message(self) -> str:
        """What the server said, for people."""
        error = self.body.get("error", self.body) if isinstance(self.body, dict) else self.body
        said = error.get("message", error) if isinstance(error, dict) else error
        return f"HTTP {self.status}: {said}"[:1000]


class Endpoint:
    """The API below a base URL such as http://host:8000/v1. May be used by several threads."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        key = os.environ.get("OPENAI_API_KEY", "").strip()
        if not (key.isascii() and key.isprintable()):
            raise self.refused("cannot be asked: OPENAI_API_KEY holds a character that no key has")
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        self._closed = threading.Event()
        self._connections = urllib3.PoolManager(
            maxsize=CONCURRENCY,
            timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT, read=READ_TIMEOUT),
            retries=False,
            cert_reqs="CERT_REQUIRED",
            ca_certs=os.environ.get("SSL_CERT_FILE") or certifi.where(),
        )

    def close(self) -> None:
        """Requests that wait for another attempt give up."""
        self._closed.set()
        self._connections.clear()

    def get(self, path: str) -> Response:
        return self._request("GET", path, None, BUSY)

    def post(self, path: str, body: dict[str, Any], busy: Collection[int] = BUSY) -> Response:
        return self._request("POST", path, json.dumps(body).encode(), busy)

    def _request(self, method: str, path: str, data: bytes | None, busy: Collection[int]) -> Response:
        """The server's answer, whatever it is, once its status is not in `busy`.

        Raises:
            StageFailed: EngineUnavailable, after ATTEMPTS; EngineRefused (bad spec), if it wants another key.
        """
        problem = ""
        pause = FIRST_PAUSE
        for attempt in range(ATTEMPTS):
            if attempt and self._closed.wait(pause):
                break
            pause = min(FIRST_PAUSE * 2**attempt, LONGEST_PAUSE)
            try:
                answer = self._connections.request(method, self.url + path, body=data, headers=self._headers)
            except (urllib3.exceptions.LocationValueError, urllib3.exceptions.SSLError) as error:
                raise self.refused(f"cannot be used: {error}") from error
            except urllib3.exceptions.HTTPError as error:
                problem = _first_line(error)
                continue
            response = Response(answer.status, _parsed(answer.data))
            if response.status in (401, 403):
                raise self.refused(f"does not let this worker in; set OPENAI_API_KEY ({response.message})")
            if response.status not in busy:
                return response
            problem = response.message
            asked = answer.headers.get("Retry-After", "")
            pause = min(float(asked), LONGEST_PAUSE) if asked.isdecimal() else pause
        raise StageFailed(
            "EngineUnavailable",
            f"engine OpenAI: {self.url}{path} did not answer in {ATTEMPTS} attempts: {problem}",
            ExitCode.STORE_UNAVAILABLE,
        )

    def refused(self, what: str, reason: str = "EngineRefused") -> StageFailed:
        """What a person must mend before another attempt makes sense."""
        return StageFailed(reason, f"engine OpenAI: {self.url} {what}", ExitCode.BAD_SPEC)


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return data.decode(errors="replace")


def _first_line(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    return str(reason).split("\n")[0]
