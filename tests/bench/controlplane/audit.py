"""The requests of one user, as the API server itself writes them down."""

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from controlplane.client import Json
from controlplane.plane import ADMINISTRATORS, Component, ControlPlane
from controlplane.processes import Server

USER = "measured"
"""Whom a measured controller is."""
WRITES = {"create", "update", "patch", "delete", "deletecollection"}
POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived", "ResponseStarted"],
    "rules": [{"level": "Metadata", "users": [USER]}, {"level": "None"}],
}


@dataclass(frozen=True)
class Request:
    kind: str
    """Verb and resource, such as `patch evolutionruns/status`; a watch is told of when it ends."""
    name: str
    """Of the object."""
    received: float
    """Seconds since the epoch, exact to a microsecond."""

    @property
    def verb(self) -> str:
        return self.kind.split()[0]


class Requests(list[Request]):
    """Answered requests in the order of their answers."""

    @property
    def by_kind(self) -> dict[str, int]:
        return dict(sorted(Counter(request.kind for request in self).items()))

    @property
    def writes(self) -> int:
        return sum(request.verb in WRITES for request in self)

    @property
    def reads(self) -> int:
        """Lists and single objects, without watches."""
        return sum(request.verb in {"get", "list"} for request in self)


class Audit:
    """Reads on from where it stopped."""

    def __init__(self, log: Path, kubeconfig: Path) -> None:
        self._log = log
        self._read = 0
        self.kubeconfig = kubeconfig
        """Of the user whose requests are told of."""

    def since_last(self) -> Requests:
        """Requests answered since the last call."""
        found = Requests()
        with self._log.open() as log:
            log.seek(self._read)
            while (line := log.readline()).endswith("\n"):
                self._read = log.tell()
                found.append(_request(json.loads(line)))
        return found

    def until(self, kind: str, after: float, seconds: float) -> float | None:
        """Seconds from `after` (since the epoch) to the first such request received later; None if none comes."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for request in self.since_last():
                if request.kind == kind and request.received > after:
                    return request.received - after
            time.sleep(0.02)
        return None


def _request(entry: Json) -> Request:
    target = entry.get("objectRef", {})
    names = [target.get("resource", entry["requestURI"].partition("?")[0]), target.get("subresource")]
    received = datetime.fromisoformat(entry["requestReceivedTimestamp"]).timestamp()
    return Request(f"{entry['verb']} {'/'.join(filter(None, names))}", target.get("name", ""), received)


class TunedPlane(ControlPlane):
    """A control plane whose Job controller works on more Jobs at the same time than the 5 that are its default."""

    def __init__(self, folder: Path, apiserver_flags: Mapping[str, object], job_syncs: int | None) -> None:
        self._job_syncs = job_syncs
        super().__init__(folder, apiserver_flags)

    def _server(self, name: Component, flags: dict[str, object], ready_path: str, *, tls: bool = True) -> Server:
        if self._job_syncs and name == "kube-controller-manager":
            flags = {**flags, "concurrent-job-syncs": self._job_syncs}
        return super()._server(name, flags, ready_path, tls=tls)


@contextmanager
def audited_plane(folder: Path, job_syncs: int | None = None) -> Iterator[tuple[ControlPlane, Audit]]:
    """A fresh control plane, and the requests of a user who may do everything."""
    folder.mkdir(parents=True, exist_ok=True)
    policy, log = folder / "audit-policy.json", folder / "audit.log"
    policy.write_text(json.dumps(POLICY))
    log.touch()
    flags = {"audit-policy-file": policy, "audit-log-path": log, "audit-log-maxsize": 1024}
    with TunedPlane(folder / "plane", flags, job_syncs) as plane:
        yield plane, Audit(log, plane.kubeconfig_for(USER, (ADMINISTRATORS,)))
