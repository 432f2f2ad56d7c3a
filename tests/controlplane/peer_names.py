"""Names by which the pods of a headless Service find each other, as the DNS of a cluster gives them.

A pod with a `subdomain` gets an /etc/hosts of its own, in a mount namespace. It names the endpoints that the Service of
that name has at the moment, and all of them are on loopback: every pod is a process of this machine.
"""

import os
import subprocess
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from controlplane.client import Api, Changed, Json, Listed, Removed, Watch, object_path

HOSTS = Path("/etc/hosts")
APART = ("unshare", "--map-root-user", "--mount")
WITH_HOSTS = f'mount --bind "$0" {HOSTS} && exec setpriv --pdeathsig KILL -- "$@"'
"""A new user namespace forgets that a process is to end with its parent."""


@contextmanager
def peer_names(api: Api, pod: Json, file: Path) -> Iterator[list[str]]:
    """The words before a command of the pod with which it knows its peers, who are kept in `file` until the end of
    the block; none for a pod without subdomain."""
    service = pod["spec"].get("subdomain")
    if not service:
        yield []
        return
    file.write_bytes(HOSTS.read_bytes())
    slices = object_path("endpointslices", namespace=pod["metadata"]["namespace"], group="discovery.k8s.io/v1")
    watch = api.watch(slices, labelSelector=f"kubernetes.io/service-name={service}")
    threading.Thread(target=_keep, args=(watch, service, file), daemon=True).start()
    try:
        yield [*APART, "sh", "-c", WITH_HOSTS, str(file)]
    finally:
        watch.close()


def names_refused() -> str:
    """Why this machine does not let a process have an /etc/hosts of its own; empty where it does."""
    if not HOSTS.exists():
        return f"there is no {HOSTS}"
    command = [*APART, "sh", "-c", WITH_HOSTS, str(HOSTS), "true"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        return str(error)
    return done.stderr.strip() or "refused" if done.returncode else ""


def _keep(watch: Watch, service: str, file: Path) -> None:
    slices: dict[str, Json] = {}
    for event in watch:
        match event:
            case Listed(found):
                slices = {each["metadata"]["uid"]: each for each in found}
            case Changed(found):
                slices[found["metadata"]["uid"]] = found
            case Removed(found):
                slices.pop(found["metadata"]["uid"], None)
        _write(file, HOSTS.read_text() + "".join(_lines(slices.values(), service)))


def _lines(slices: Iterable[Json], service: str) -> Iterator[str]:
    for each in slices:
        for endpoint in each.get("endpoints") or ():
            if "hostname" in endpoint and endpoint["conditions"].get("ready") is not False:
                short = f"{endpoint['hostname']}.{service}"
                long = f"{short}.{each['metadata']['namespace']}"
                yield f"127.0.0.1 {short} {long} {long}.svc {long}.svc.cluster.local\n"


def _write(file: Path, text: str) -> None:
    """Into the same file, which is what the pod has mounted, and never empty for somebody who reads it meanwhile."""
    with file.open("r+b") as hosts:
        os.pwrite(hosts.fileno(), text.encode(), 0)
        hosts.truncate(len(text.encode()))
