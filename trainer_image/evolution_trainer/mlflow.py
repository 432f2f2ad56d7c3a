"""Runs on an MLflow tracking server, told of over its REST API.

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
TRAINING = "evolution.stage"
"""Tag with the fingerprint of the training that a run tells of."""


class Experiment:
    """One experiment on a server; nothing is asked before the first call.

    Raises (from every call):
        ValueError: the address is none of a server.
        ConnectionError: the server does not answer, or refuses.
    """

    def __init__(self, uri: str, name: str) -> None:
        """Credentials come from MLflow's own environment variables."""
        self._uri = uri.rstrip("/")
        self._name = name
        self._id = ""

    def find(self, tag: str, value: str, *, running: bool) -> str:
        """Id of the oldest run with that tag; empty if there is none. `running`: only one that was never ended."""
        wanted = f"tags.`{tag}` = '{value}'" + (" and attributes.status = 'RUNNING'" if running else "")
        oldest = {"order_by": ["attributes.start_time ASC"], "max_results": 1}
        found = self._post("runs/search", {"experiment_ids": [self._known()], "filter": wanted, **oldest})
        return str(found["runs"][0]["info"]["run_id"]) if found.get("runs") else ""

    def create(self, name: str, tag: str, value: str) -> str:
        """Id of a new run."""
        tags = [{"key": tag, "value": value}]
        wanted = {"experiment_id": self._known(), "run_name": name, "start_time": _now(), "tags": tags}
        return str(self._post("runs/create", wanted)["run"]["info"]["run_id"])

    def log(self, run: str, **what: list[dict[str, JsonValue]]) -> None:
        """`params` or `metrics`."""
        self._post("runs/log-batch", {"run_id": run, **what})

    def finish(self, run: str) -> None:
        """All that was to be told of the run so far is told; more may be."""
        self._post("runs/update", {"run_id": run, "status": "FINISHED", "end_time": _now()})

    def _known(self) -> str:
        """Id of the experiment."""
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
        if not self._id:
            found = self._post("experiments/search", {"filter": f"name = '{self._name}'", "max_results": 1})
            if found.get("experiments"):
                self._id = str(found["experiments"][0]["experiment_id"])
            else:
                self._id = str(self._post("experiments/create", {"name": self._name})["experiment_id"])
        return self._id

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


class MLflowRun:
    """One training. Where a worker was interrupted, the next one goes on with its run."""

    def __init__(
        self, experiment: Experiment, *, name: str, identity: str, parameters: Mapping[str, JsonValue]
    ) -> None:
        """`identity` names the training among all."""
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
        self._run = self._experiment.find(TRAINING, self._identity, running=True) or self._experiment.create(
            self._name, TRAINING, self._identity
        )
        parameters: list[dict[str, JsonValue]] = [
            {"key": key, "value": _text(value)} for key, value in sorted(self._parameters.items())
        ]
        self._experiment.log(self._run, params=parameters)

    def step(self, step: int, values: Mapping[str, float]) -> None:
        self._waiting += metrics(step, values)
        if time.monotonic() - self._sent >= SECONDS or len(self._waiting) > AT_ONCE - 10:
            self._send()

    def saved(self) -> None:
        self._send()

    def end(self, figures: Mapping[str, float]) -> None:
        self.begin(0)
        self._waiting += metrics(
            int(figures.get("steps", 0)), {f"round.{name}": value for name, value in figures.items()}
        )
        self._send()
        self._experiment.finish(self._run)

    def _send(self) -> None:
        if self._waiting:
            self._experiment.log(self._run, metrics=self._waiting)
        self._waiting = []
        self._sent = time.monotonic()


def metrics(step: int, values: Mapping[str, float]) -> list[dict[str, JsonValue]]:
    """As `Experiment.log` takes them."""
    at = _now()
    return [{"key": key, "value": value, "timestamp": at, "step": step} for key, value in values.items()]


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
