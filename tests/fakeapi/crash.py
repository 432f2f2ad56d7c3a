"""Crash at every write: an operator is killed at each of its writes in turn, and what comes of the run is compared.

Every trial has a namespace, a store, a proxy and an operator of its own, so several can share one API server.
"""

import itertools
import json
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simulated import MINIMAL

from fakeapi.client import ApiError, Client
from fakeapi.fork_server import ForkServer
from fakeapi.killing_proxy import KillingProxy, When
from fakeapi.kinds import CLUSTER_RUNTIMES, JOBS, NAMESPACES, RUNS, Body
from fakeapi.storage import Key

FINGERPRINT = "selfevolution.io/fingerprint"
RUN = "crash"
QUIET_SECONDS = 0.3
"""Without a request for so long, an operator whose run has ended has nothing more to say."""

_names = itertools.count()


@dataclass(frozen=True, slots=True)
class Position:
    """Where the operator is killed."""

    write: int
    when: When


@dataclass(frozen=True)
class Outcome:
    """What a trial has come to, in terms that do not depend on names, ids and clocks."""

    status: Body
    manifests: frozenset[str]
    """Fingerprints of the stages committed."""
    created: Mapping[str, int]
    """How often a Job of each name was created."""
    fingerprints: Mapping[str, int]
    """How often a Job was created for each fingerprint."""
    attempts: Mapping[str, int]
    """How many workers the ledger in the store has, by Job and how they ended."""
    writes: int
    """Of all the operator's lives together."""
    killed: bool
    log: str = field(repr=False)

    @property
    def complete(self) -> bool:
        return self.status.get("state") == "Complete"

    def differences(self, undisturbed: "Outcome") -> list[str]:
        """What a crash must not have changed; empty if it changed nothing."""
        found = []
        if not self.complete:
            found.append(f"the run is {self.status.get('state', 'without status')}, not Complete")
        found += [f"Job {name} was created {times} times" for name, times in self.created.items() if times > 1]
        found += [
            f"{times} Jobs were created for fingerprint {fingerprint}"
            for fingerprint, times in self.fingerprints.items()
            if times > undisturbed.fingerprints.get(fingerprint, 1)
        ]
        if self.manifests != undisturbed.manifests:
            missing, more = undisturbed.manifests - self.manifests, self.manifests - undisturbed.manifests
            found.append(f"manifests differ: {len(missing)} missing, {len(more)} more")
        if set(self.fingerprints) != set(undisturbed.fingerprints):
            found.append("Jobs were created for other fingerprints")
        if self.attempts != undisturbed.attempts:
            found.append(f"attempts are {dict(self.attempts)}, not {dict(undisturbed.attempts)}")
        if self.status != undisturbed.status:
            found.append(f"status is {json.dumps(self.status)}, not {json.dumps(undisturbed.status)}")
        return found


@dataclass(frozen=True)
class Laboratory:
    """Trials on one API server, whose Jobs run by themselves."""

    kubeconfig: Path
    folder: Path
    forks: ForkServer
    module: str = "evolution_operator"
    environment: Mapping[str, str] = field(default_factory=dict)
    spec: Mapping[str, Any] = field(default_factory=lambda: MINIMAL)
    namespace_ready: Callable[[str], object] = lambda _: None
    """Waits for what a new namespace needs before pods can be created there."""
    seconds: float = 60.0
    """Longest life of an operator."""

    def prepare(self) -> None:
        """What all runs need: a runtime."""
        runtime = {"metadata": {"name": "default"}, "spec": {"image": "example.org/trainer@sha256:" + "0" * 64}}
        try:
            self._client.create(CLUSTER_RUNTIMES, runtime, "")
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise

    def undisturbed(self) -> Outcome:
        return self.trial(None)

    def crashes(self, positions: Iterable[Position], parallel: int = 4) -> Iterator[tuple[Position, Outcome]]:
        """One trial for each position, several at a time."""
        with ThreadPoolExecutor(parallel) as threads:
            listed = list(positions)
            yield from zip(listed, threads.map(self.trial, listed), strict=True)

    def trial(self, position: Position | None) -> Outcome:
        """A run from its creation to its end, with the operator killed at `position` and started again."""
        namespace = f"crash-{os.getpid()}-{next(_names)}"
        folder = self.folder / namespace
        folder.mkdir(parents=True)
        client = self._client
        client.create(NAMESPACES, {"metadata": {"name": namespace}}, "")
        self.namespace_ready(namespace)
        run = client.create(RUNS, {"metadata": {"name": RUN}, "spec": dict(self.spec)}, namespace)
        with KillingProxy(self.kubeconfig) as proxy:
            proxy.write_kubeconfig(folder / "kubeconfig")
            victim: Future[int] = Future()
            if position is not None:
                proxy.kill_at(position.write, position.when, victim)
            pid = self._start(Key(namespace, RUN), folder)
            victim.set_result(pid)
            try:
                if position is not None and self._wait(client, namespace, proxy, stop_when_killed=True):
                    pid = self._start(Key(namespace, RUN), folder)
                    self._wait(client, namespace, proxy, stop_when_killed=False)
                elif position is None:
                    self._wait(client, namespace, proxy, stop_when_killed=False)
                self._wait_for_ledger(folder)
            finally:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            outcome = self._outcome(client.get(RUNS, RUN, namespace), run, proxy, folder)
            client.delete(RUNS, RUN, namespace, propagationPolicy="Background")
            return outcome

    def _start(self, run: Key, folder: Path) -> int:
        arguments = ["--namespace", run.namespace, "--store", (folder / "store").as_uri()]
        environment = {
            "KUBECONFIG": str(folder / "kubeconfig"),
            "EVOLUTION_CACHE": str(folder / "cache"),
            **self.environment,
        }
        return self.forks.spawn(self.module, arguments, environment, folder / "operator.log")

    def _wait(self, client: Client, namespace: str, proxy: KillingProxy, *, stop_when_killed: bool) -> bool:
        """Until the operator is killed, if it may be, or the run has ended and the operator is silent.

        True: it was killed.
        """
        ends, requests = time.monotonic() + self.seconds, proxy.requests.total()
        while time.monotonic() < ends:
            if stop_when_killed and proxy.killed.wait(0.02):
                return True
            looked = proxy.requests.total() > requests
            if looked and proxy.idle_seconds > QUIET_SECONDS and _ended(client.get(RUNS, RUN, namespace)):
                return False
            if not stop_when_killed:
                time.sleep(0.02)
        return False

    def _wait_for_ledger(self, folder: Path) -> None:
        """Until the history knows how every attempt ended: the last one may end after the run does."""
        ends = time.monotonic() + self.seconds
        while time.monotonic() < ends and any(attempt.endswith(" None") for attempt in _attempts(folder)):
            time.sleep(0.02)

    def _outcome(self, found: Body, run: Body, proxy: KillingProxy, folder: Path) -> Outcome:
        jobs = [
            write for write in proxy.writes if (write.resource, write.verb, write.code) == (JOBS.plural, "create", 201)
        ]
        metadata = run["metadata"]
        names = {metadata["namespace"]: "NAMESPACE", metadata["uid"][:8]: "UID"}
        stages = folder.glob("store/*/stages/*.json")
        log = folder / "operator.log"
        return Outcome(
            status=_timeless(found.get("status", {}), names),
            manifests=frozenset(path.stem for path in stages),
            created=Counter(job.name for job in jobs),
            fingerprints=Counter(job.body["metadata"].get("annotations", {}).get(FINGERPRINT, "") for job in jobs),
            attempts=_attempts(folder),
            writes=len(proxy.writes),
            killed=proxy.killed.is_set(),
            log=log.read_text() if log.exists() else "",
        )

    @property
    def _client(self) -> Client:
        return Client.from_kubeconfig(self.kubeconfig)


def _attempts(folder: Path) -> Mapping[str, int]:
    histories = [json.loads(path.read_bytes()) for path in folder.glob("store/*/runs/*/history.json")]
    ledgers = [history["ledger"] for history in histories]
    attempts = [attempt for ledger in ledgers for attempt in (*ledger["settled"], *ledger["attempts"])]
    return Counter(f"{attempt['job']} {attempt['result']}" for attempt in attempts)


def every_position(writes: int) -> list[Position]:
    """Both ways to die, at each write."""
    ways: tuple[When, ...] = ("Applied", "Before")
    return [Position(write, when) for write in range(1, writes + 1) for when in ways]


def spread(positions: list[Position], count: int) -> list[Position]:
    """So many of them, evenly over all."""
    return positions if count >= len(positions) else [positions[i * len(positions) // count] for i in range(count)]


def _ended(run: Body) -> bool:
    return run.get("status", {}).get("state") in ("Complete", "Failed")


def _timeless(status: Body, names: Mapping[str, str]) -> Body:
    text = json.dumps(status, sort_keys=True)
    text = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)", "TIME", text)
    for name, stands_for in names.items():
        text = text.replace(name, stands_for)
    text = re.sub(r'"etaSeconds": \d+', '"etaSeconds": 0', text)
    result: Body = json.loads(text)
    return result
