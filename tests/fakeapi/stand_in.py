"""An operator of thirty lines, to test the crash harness with: three Jobs, one after the other.

`STAND_IN_NAMES=random` makes it one that the harness must convict: a Job that was created just before a crash is not
found again, and is created once more.
"""

import argparse
import os
from contextlib import suppress
from pathlib import Path

from fakeapi.client import ApiError, Client
from fakeapi.kinds import JOBS, RUNS, Body
from fakeapi.writing import random_suffix

ROUNDS = 3


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--namespace")
    parser.add_argument("--store")
    namespace = parser.parse_known_args()[0].namespace
    client = Client.from_kubeconfig(Path(os.environ["KUBECONFIG"]))
    while unfinished := [run for run in client.items(RUNS, namespace) if not complete(run)]:
        for run in unfinished:
            advance(client, namespace, run)


def complete(run: Body) -> bool:
    return bool(run.get("status", {}).get("state") == "Complete")


def advance(client: Client, namespace: str, run: Body) -> None:
    """One round: a Job, its end, the status."""
    done = run.get("status", {}).get("progress", {}).get("roundsCompleted", 0)
    suffix = random_suffix() if os.environ.get("STAND_IN_NAMES") == "random" else f"{done:05}"
    name = f"{run['metadata']['name']}-{suffix}"
    with suppress(ApiError):
        client.create(JOBS, job(name, f"fingerprint-{done}"), namespace)
    client.until(JOBS, name, lambda job: bool(job.get("status", {}).get("succeeded")), namespace)
    state = "Complete" if done + 1 == ROUNDS else "Running"
    status = {"state": state, "progress": {"roundsCompleted": done + 1, "percent": 0}}
    client.patch(RUNS, run["metadata"]["name"], {"status": status}, namespace, "status")


def job(name: str, fingerprint: str) -> Body:
    container = {"name": "worker", "image": "worker"}
    return {
        "metadata": {"name": name, "annotations": {"selfevolution.io/fingerprint": fingerprint}},
        "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [container]}}},
    }


if __name__ == "__main__":
    main()
