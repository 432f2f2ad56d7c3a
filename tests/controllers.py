"""Controllers of other projects beside a control plane, as they are: their programs, definitions and webhooks.

There are no services here to reach a webhook by, so each is registered with a URL on loopback and the certificate of an
authority of its own.
"""

import json
import subprocess
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from controlplane.certificates import Authority, Certificate
from controlplane.client import object_path
from controlplane.plane import ControlPlane
from controlplane.processes import Port, Server, answers
from controlplane.waiting import eventually
from tools.build import binary

TOOLS = Path(__file__).parent / "tools"
Configuration = dict[str, Any]
Urls = Callable[[str], Configuration]
"""From the path of a webhook to how the API server reaches it."""

CONVERTED = ("localqueues", "clusterqueues", "cohorts", "workloads", "multikueueclusters")
"""Kueue's kinds with several versions, by its own kustomization."""


@contextmanager
def kueue(plane: ControlPlane, folder: Path) -> Iterator[None]:
    """Kueue, which holds the Jobs and JobSets that name one of its queues."""
    ports = _ports()
    certificate, urls = _webhooks(folder, ports["webhooks"])
    source = _source("kueue", "sigs.k8s.io/kueue") / "config" / "components"
    definitions = [_converted(body, urls) for body in _bodies(*sorted((source / "crd" / "bases").glob("*.yaml")))]
    configuration = {
        "apiVersion": "config.kueue.x-k8s.io/v1beta2",
        **_configuration(ports, certificate),
        "namespace": "kueue-system",
        "integrations": {"frameworks": ["batch/job", "jobset.x-k8s.io/jobset"]},
    }
    # It reads the certificate of its metrics from a fixed place in /etc: it gets an /etc of its own.
    etc = folder / "etc" / "kueue" / "metrics" / "certs"
    etc.mkdir(parents=True)
    for file in (certificate.file, certificate.key):
        (etc / file.name).write_bytes(file.read_bytes())
    own_etc = f'mount --bind {folder / "etc"} /etc && exec setpriv --pdeathsig KILL -- "$@"'
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", own_etc, "sh", str(binary("kueue"))]
    command += [f"--kubeconfig={plane.kubeconfig}", "--feature-gates=VisibilityOnDemand=false"]
    plane.kubectl("create", "namespace", "kueue-system")
    with _running("kueue", plane, folder, command, configuration, definitions, ports):
        _register(
            plane, "kueue", source / "webhook" / "manifests.yaml", urls, ("kueue.x-k8s.io", "batch", "jobset.x-k8s.io")
        )
        yield


@contextmanager
def jobset(plane: ControlPlane, folder: Path) -> Iterator[None]:
    """JobSet, which makes the Jobs of a JobSet and the Service by whose name their pods find each other."""
    ports = _ports()
    certificate, urls = _webhooks(folder, ports["webhooks"])
    source = _source("jobset", "sigs.k8s.io/jobset") / "config" / "components"
    definitions = _bodies(*sorted((source / "crd" / "bases").glob("*.yaml")))
    configuration = {"apiVersion": "config.jobset.x-k8s.io/v1alpha1", **_configuration(ports, certificate)}
    command = [str(binary("jobset")), f"--kubeconfig={plane.kubeconfig}"]
    with _running("jobset", plane, folder, command, configuration, definitions, ports):
        _register(plane, "jobset", source / "webhook" / "manifests.yaml", urls, ("jobset.x-k8s.io",))
        yield


def _ports() -> dict[str, Port]:
    return {name: Port() for name in ("webhooks", "health")}


def _configuration(ports: dict[str, Port], certificate: Certificate) -> Configuration:
    """What these controllers are told in the same words."""
    return {
        "kind": "Configuration",
        "health": {"healthProbeBindAddress": f"127.0.0.1:{ports['health'].number}"},
        "metrics": {"bindAddress": "0"},
        "webhook": {"host": "127.0.0.1", "port": ports["webhooks"].number, "certDir": str(certificate.file.parent)},
        "leaderElection": {"leaderElect": False},
        "internalCertManagement": {"enable": False},
    }


@contextmanager
def _running(
    name: str,
    plane: ControlPlane,
    folder: Path,
    command: list[str],
    configuration: Configuration,
    definitions: list[Configuration],
    ports: dict[str, Port],
) -> Iterator[None]:
    _apply(plane, definitions)
    for body in definitions:
        kind = body["metadata"]["name"]
        eventually(partial(_established, plane, kind), f"the API server serving {kind}")
    file = folder / "configuration.json"
    file.write_text(json.dumps(configuration))
    for port in ports.values():
        port.release()  # these programs do not share a port with who holds it
    ready = answers(ports["health"], "/readyz", tls=False)
    server = Server(name, [*command, f"--config={file}"], folder / f"{name}.log", ready, {})
    server.launch()
    try:
        server.wait()
        yield
    finally:
        server.kill()


def _established(plane: ControlPlane, name: str) -> bool:
    body = plane.api.get(object_path("customresourcedefinitions", name, group="apiextensions.k8s.io/v1"))
    conditions = body.get("status", {}).get("conditions") or ()
    return any(c["type"] == "Established" and c["status"] == "True" for c in conditions)


def _source(tool: str, module: str) -> Path:
    """The folder of a tool's main module, in the version that it is built from."""
    done = subprocess.run(
        ["go", "mod", "download", "-json", module], cwd=TOOLS / tool, capture_output=True, text=True, check=True
    )
    return Path(json.loads(done.stdout)["Dir"])


def _webhooks(folder: Path, port: Port) -> tuple[Certificate, Urls]:
    authority = Authority.at(folder / "pki", "ca")
    certificate = authority.sign("tls", "webhooks", names=("IP:127.0.0.1",))
    bundle = b64encode(authority.own.file.read_bytes()).decode()
    return certificate, lambda path: {"url": f"https://127.0.0.1:{port.number}{path}", "caBundle": bundle}


def _converted(definition: Configuration, urls: Urls) -> Configuration:
    if definition["spec"]["names"]["plural"] in CONVERTED:
        webhook = {"clientConfig": urls("/convert"), "conversionReviewVersions": ["v1"]}
        definition["spec"]["conversion"] = {"strategy": "Webhook", "webhook": webhook}
    return definition


def _register(plane: ControlPlane, name: str, file: Path, urls: Urls, groups: tuple[str, ...]) -> None:
    """Its webhooks for the kinds of these API groups; not before it runs, since nothing is admitted without them."""
    configurations = _bodies(file)
    for body in configurations:
        body["metadata"]["name"] = f"{name}-{body['metadata']['name']}"
        body["webhooks"] = [w for w in body["webhooks"] if {g for r in w["rules"] for g in r["apiGroups"]} <= {*groups}]
        for webhook in body["webhooks"]:
            webhook["clientConfig"] = urls(webhook["clientConfig"]["service"]["path"])
    _apply(plane, configurations)


def _apply(plane: ControlPlane, bodies: list[Configuration]) -> None:
    text = yaml.safe_dump_all(bodies)
    plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input=text)


def _bodies(*files: Path) -> list[Configuration]:
    return [body for file in files for body in yaml.safe_load_all(file.read_text()) if body]
