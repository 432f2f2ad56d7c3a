"""A run on an MLflow tracking server, told of over its REST API.

Not through MLflow's own client, which waits for minutes for a server that is away, and brings dozens of packages.
"""

import base64
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

from pydantic import JsonValue

from evolution.api.locations import holds_user

SECONDS = 5.0
"""Longest wait for an answer, and time between two messages."""
AT_ONCE = 1000
"""Metrics that the API takes in one message."""
IDENTITY = "evolution.stage"


class MLflowRun:
    """One training. Where a worker was interrupted, the next one goes on with its run."""

    def __init__(
        self, uri: str, *, experiment: str, name: str, identity: str, parameters: Mapping[str, JsonValue]
    ) -> None:
        """`identity` names the training among all; credentials come from MLflow's own environment variables."""
        self._uri = uri.rstrip("/")
        self._experiment = experiment
        self._name = name
        self._identity = identity
        self._parameters = parameters
        self._run = ""
        self._waiting: list[dict[str, JsonValue]] = []
        self._sent = 0.0

    def begin(self, step: int) -> None:  # noqa: ARG002 - what is told of a step again counts
        if self._run:
            return
        if not self._uri.startswith(("http://", "https://")):
            raise ValueError(
                f"there is no server ({self._uri!r} is no http(s):// address); give one in mlflowURI of the runtime, "
                "or on a laptop in MLFLOW_TRACKING_URI"
            )
        if holds_user(self._uri):
            raise ValueError(
                "the server's address holds a user or password; give them as MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD"
            )
        experiment = self._experiment_id()
        self._run = self._interrupted(experiment) or self._created(experiment)
        parameters = [{"key": key, "value": _text(value)} for key, value in sorted(self._parameters.items())]
        self._post("runs/log-batch", {"run_id": self._run, "params": parameters})

    def step(self, step: int, values: Mapping[str, float]) -> None:
        self._note(step, values)
        if time.monotonic() - self._sent >= SECONDS or len(self._waiting) > AT_ONCE - 10:
            self._send()

    def saved(self) -> None:
        self._send()

    def end(self, metrics: Mapping[str, float]) -> None:
        self.begin(0)
        self._note(int(metrics.get("steps", 0)), {f"round.{name}": value for name, value in metrics.items()})
        self._send()
        self._post("runs/update", {"run_id": self._run, "status": "FINISHED", "end_time": _now()})

    def _note(self, step: int, values: Mapping[str, float]) -> None:
        at = _now()
        self._waiting += [{"key": key, "value": value, "timestamp": at, "step": step} for key, value in values.items()]

    def _send(self) -> None:
        if self._waiting:
            self._post("runs/log-batch", {"run_id": self._run, "metrics": self._waiting})
        self._waiting = []
        self._sent = time.monotonic()

    def _experiment_id(self) -> str:
        found = self._post("experiments/search", {"filter": f"name = '{self._experiment}'", "max_results": 1})
        if found.get("experiments"):
            return str(found["experiments"][0]["experiment_id"])
        return str(self._post("experiments/create", {"name": self._experiment})["experiment_id"])

    def _interrupted(self, experiment: str) -> str:
        """Id of this training's run that was never ended; empty if there is none."""
        mine = f"tags.`{IDENTITY}` = '{self._identity}' and attributes.status = 'RUNNING'"
        found = self._post("runs/search", {"experiment_ids": [experiment], "filter": mine, "max_results": 1})
        return str(found["runs"][0]["info"]["run_id"]) if found.get("runs") else ""

    def _created(self, experiment: str) -> str:
        tags = [{"key": IDENTITY, "value": self._identity}]
        wanted = {"experiment_id": experiment, "run_name": self._name, "start_time": _now(), "tags": tags}
        return str(self._post("runs/create", wanted)["run"]["info"]["run_id"])

    def _post(self, path: str, message: Mapping[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(
            f"{self._uri}/api/2.0/mlflow/{path}",
            json.dumps(message).encode(),
            {"Content-Type": "application/json", **_credentials()},
        )
        try:
            with urllib.request.urlopen(request, timeout=SECONDS) as response:
                answer: dict[str, Any] = json.loads(response.read() or b"{}")
                return answer
        except urllib.error.HTTPError as error:
            said = error.read(500).decode(errors="replace").strip()
            raise ConnectionError(f"{self._uri} answers {path} with {error.code}: {said}") from error
        except (OSError, ValueError) as error:
            cause = error.reason if isinstance(error, urllib.error.URLError) else error
            raise ConnectionError(f"{self._uri} cannot be reached: {cause}") from error


def _credentials() -> dict[str, str]:
    token, user = os.environ.get("MLFLOW_TRACKING_TOKEN"), os.environ.get("MLFLOW_TRACKING_USERNAME")
    if token:
        return {"Authorization": f"Bearer {token}"}
    if user:
        pair = f"{user}:{os.environ.get('MLFLOW_TRACKING_PASSWORD', '')}"
        return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
    return {}


def _text(value: JsonValue) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _now() -> int:
    return time.time_ns() // 1_000_000
