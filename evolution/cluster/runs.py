"""EvolutionRuns of a cluster: read, watched, applied, changed."""

import difflib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from evolution.api.load import run_from_object
from evolution.api.run import EvolutionRun
from evolution.api.status import EvolutionRunStatus
from evolution.cluster.errors import NotFound
from evolution.cluster.kubectl import FIELD_MANAGER, Kubectl, Object
from evolution.store import keys

RUNS = "evolutionruns.selfevolution.io"
RETRY_REQUESTED = "selfevolution.io/retry-requested-at"


@dataclass(frozen=True)
class ClusterRun:
    """An EvolutionRun as the cluster has it."""

    body: Object

    @property
    def name(self) -> str:
        return str(self.body["metadata"]["name"])

    @property
    def namespace(self) -> str:
        return str(self.body["metadata"]["namespace"])

    @property
    def id(self) -> str:
        """Its name in the store."""
        return f"{self.name}-{self.body['metadata']['uid'][:8]}"

    @property
    def generation(self) -> int:
        return int(self.body["metadata"].get("generation", 0))

    @property
    def seen(self) -> bool:
        """Whether an operator has ever looked at it."""
        return bool(self.body.get("status"))

    @property
    def retry_pending(self) -> bool:
        """Whether a retry was asked for that no operator has acted upon yet."""
        asked = self.body["metadata"].get("annotations", {}).get(RETRY_REQUESTED, "")
        return bool(asked) and asked != self.status.last_handled_retry_at

    @property
    def edit_pending(self) -> bool:
        """Whether the spec was edited since the operator last looked."""
        return self.status.observed_generation < self.generation

    @property
    def ended(self) -> bool:
        """Complete or failed, with nothing asked for that the operator has yet to look at."""
        return self.status.state in ("Complete", "Failed") and not self.edit_pending and not self.retry_pending

    @property
    def status(self) -> EvolutionRunStatus:
        return read_status(self.body.get("status"))

    @property
    def store(self) -> str:
        """Location of the store of its namespace, as its status names it; empty before the operator has said so."""
        uri = self.status.history_uri
        below = f"/{keys.history(self.id)}"
        return uri.removesuffix(below) if uri.endswith(below) else ""

    def run(self) -> EvolutionRun:
        """The run with its preset applied.

        Raises:
            InvalidRun: its spec is not one that this version understands.
        """
        return run_from_object(self.body)


@dataclass(frozen=True)
class Runs:
    """The runs of a namespace."""

    kubectl: Kubectl

    def get(self, name: str) -> ClusterRun:
        """
        Raises:
            NotFound: no such run; the message names runs that there are.
            ClusterError: see `Kubectl.run`.
        """
        found = self.find(name)
        if found is None:
            raise NotFound(self._no_run(name))
        return found

    def find(self, name: str) -> ClusterRun | None:
        text = self.kubectl.run("get", RUNS, name, "--ignore-not-found", "--output", "json")
        return ClusterRun(json.loads(text)) if text.strip() else None

    def list(self, *, everywhere: bool = False) -> list[ClusterRun]:
        """All runs of the namespace, or of the cluster."""
        listed = self.kubectl.object("get", RUNS, *(["--all-namespaces"] if everywhere else []))
        return [ClusterRun(item) for item in listed["items"]]

    @contextmanager
    def watch(self, name: str) -> Iterator[Iterator[ClusterRun]]:
        """A run as it is now and after every change, until the server ends the watch.

        Raises:
            NotFound: there is no such run, or (from the iterator) it was deleted.
        """
        self.get(name)
        with self.kubectl.changes(RUNS, name) as changes:
            yield self._until_deleted(name, changes)

    def apply(self, manifest: str, *, force: bool) -> ClusterRun:
        """Server-side apply of the text of a run file. `force` takes over fields that others have set."""
        return ClusterRun(
            self.kubectl.object(
                "apply",
                "--server-side",
                f"--field-manager={FIELD_MANAGER}",
                *(["--force-conflicts"] if force else []),
                "--filename=-",
                stdin=manifest,
            )
        )

    def set_suspend(self, name: str, suspend: bool) -> None:
        patch = json.dumps({"spec": {"suspend": suspend}})
        self.kubectl.run("patch", RUNS, name, "--type=merge", f"--field-manager={FIELD_MANAGER}", f"--patch={patch}")

    def request_retry(self, name: str) -> str:
        """Ask the operator to try again what failed; the time that is noted on the run."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        self.kubectl.run(
            "annotate", RUNS, name, f"{RETRY_REQUESTED}={now}", "--overwrite", f"--field-manager={FIELD_MANAGER}"
        )
        return now

    def delete(self, name: str) -> None:
        self.kubectl.run("delete", RUNS, name)

    def _no_run(self, name: str) -> str:
        names = sorted(run.name for run in self.list())
        close = difflib.get_close_matches(name, names, n=1)
        more = f" and {len(names) - 10} more" if len(names) > 10 else ""
        there = f"did you mean {close[0]}?" if close else f"runs there: {', '.join(names[:10]) or 'none'}{more}"
        return f"no run {name!r} in namespace {self.kubectl.current_namespace()}; {there}"

    def _until_deleted(self, name: str, changes: Iterator[tuple[str, Object]]) -> Iterator[ClusterRun]:
        for type_, body in changes:
            if type_ == "DELETED":
                raise NotFound(f"run {name!r} was deleted; its finished stages stay in the store")
            yield ClusterRun(body)


def read_status(status: object) -> EvolutionRunStatus:
    """A status as far as this version understands it: parts that it cannot read are left out."""
    left: Any = json.loads(json.dumps(status or {}))
    while True:
        try:
            return EvolutionRunStatus.model_validate(left)
        except ValidationError as error:
            details = error.errors()[0]
            location = details["loc"][:-1] if details["type"] == "missing" else details["loc"]
            if not location:
                return EvolutionRunStatus()
            _leave_out(left, location)


def _leave_out(value: Any, location: tuple[int | str, ...]) -> None:
    """Remove the part at `location`; within a list, its whole entry."""
    last_index = max((n for n, part in enumerate(location) if isinstance(part, int)), default=len(location) - 1)
    *path, last = location[: last_index + 1]
    for part in path:
        value = value[part]
    del value[last]
