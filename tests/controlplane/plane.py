"""A real Kubernetes control plane on loopback, without containers: etcd, API server, controller manager, scheduler."""

import json
import os
import subprocess
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Literal

from controlplane.certificates import Authority, Certificate, key_pair
from controlplane.client import Api, Json, object_path
from controlplane.processes import Port, Server, answers
from tools.build import binary

Component = Literal["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"]
COMPONENTS: tuple[Component, ...] = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
"""In the order in which they start."""
CRDS = Path(__file__).parents[2] / "crds"
ADMINISTRATORS = "system:masters"
TOKEN_SECONDS = 24 * 3600
QPS = 500
"""Requests per second of the controllers. Their default of 20 would let the Job controller do three Jobs a second."""


class ControlPlane:
    """Servers, credentials and ports of one control plane; all it keeps lies in its folder."""

    def __init__(self, folder: Path, apiserver_flags: Mapping[str, object] | None = None) -> None:
        """`apiserver_flags` go to the API server beside, or instead of, its usual ones; by name without dashes."""
        self.folder = folder.resolve()
        self._apiserver_flags = dict(apiserver_flags or {})
        pki = self.folder / "pki"
        self._authority = Authority.at(pki, "ca")
        self._front_proxy = Authority.at(pki, "front-proxy-ca")
        self._account_key, self._account_public_key = key_pair(pki, "service-accounts")
        self._ports = {name: Port() for name in (*COMPONENTS, "etcd-peer")}
        self.url = f"https://127.0.0.1:{self._ports['kube-apiserver'].number}"
        self.kubeconfig = self._with_certificate("admin", "admin", (ADMINISTRATORS,))
        """Of an administrator."""
        self._servers: dict[Component, Server] = {
            "etcd": self._etcd(),
            "kube-apiserver": self._apiserver(),
            "kube-controller-manager": self._controller_manager(),
            "kube-scheduler": self._scheduler(),
        }

    def __enter__(self) -> "ControlPlane":
        try:
            self.start("etcd")
            self.start("kube-apiserver")
            self.start("kube-controller-manager", "kube-scheduler")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for name in reversed(COMPONENTS):
            self._servers[name].kill()
        for port in self._ports.values():
            port.release()

    def start(self, *names: Component) -> None:
        """Raises RuntimeError, with the end of its log, for a component that does not become ready."""
        for name in names:
            self._servers[name].launch()
        for name in names:
            self._servers[name].wait()

    def stop(self, name: Component) -> None:
        self._servers[name].stop()

    def restart(self, name: Component) -> None:
        """Stop it, start it, and wait until it is ready."""
        self.stop(name)
        self.start(name)

    @property
    def pids(self) -> dict[Component, int]:
        """Of the components that run."""
        return {name: server.pid for name, server in self._servers.items() if server.pid}

    @cached_property
    def api(self) -> Api:
        """As an administrator."""
        return Api(self.kubeconfig)

    def kubectl(self, *arguments: str, input: str | None = None) -> str:  # noqa: A002 - as subprocess calls it
        """Its standard output.

        Raises:
            RuntimeError: it failed; with what it said.
        """
        done = subprocess.run(
            [binary("kubectl"), "--kubeconfig", self.kubeconfig, *arguments],
            input=input,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "HOME": str(self.folder)},
        )
        if done.returncode != 0:
            raise RuntimeError(f"kubectl {' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def install_crds(self) -> None:
        """Apply every file of crds/, and wait until the API server serves them.

        Raises:
            FileNotFoundError: there are none.
        """
        files = sorted(CRDS.glob("*.yaml"))
        if not files:
            raise FileNotFoundError(f"no *.yaml in {CRDS}")
        given = [f"--filename={file}" for file in files]
        self.kubectl("apply", "--server-side", "--force-conflicts", *given)
        self.kubectl("wait", "--for=condition=Established", "--timeout=60s", *given)

    def kubeconfig_for(self, user: str, groups: tuple[str, ...] = ()) -> Path:
        """For a user with a certificate, who may do what RBAC says."""
        return self._with_certificate(_file_name(user, *groups), user, groups)

    def service_account_kubeconfig(self, namespace: str, name: str) -> Path:
        """For a service account that exists, with a token of its own as pods get one; it lasts a day."""
        path = f"{object_path('serviceaccounts', name, namespace)}/token"
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": TOKEN_SECONDS},
        }
        token = self.api.create(path, request)["status"]["token"]
        return self._write_kubeconfig(_file_name(namespace, name), {"token": token}, namespace)

    def _with_certificate(self, name: str, user: str, groups: tuple[str, ...]) -> Path:
        signed = self._authority.sign(f"user-{name}", user, groups)
        credentials = {"client-certificate": str(signed.file), "client-key": str(signed.key)}
        return self._write_kubeconfig(name, credentials)

    def _write_kubeconfig(self, name: str, credentials: Json, namespace: str = "default") -> Path:
        authority = b64encode(self._authority.own.file.read_bytes()).decode()
        configuration = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "evolution",
            "clusters": [
                {"name": "evolution", "cluster": {"server": self.url, "certificate-authority-data": authority}}
            ],
            "users": [{"name": name, "user": credentials}],
            "contexts": [
                {"name": "evolution", "context": {"cluster": "evolution", "user": name, "namespace": namespace}}
            ],
        }
        # JSON is YAML, and needs no parser here.
        file = self.folder / f"{name}.kubeconfig"
        file.touch(mode=0o600)
        file.write_text(json.dumps(configuration, indent=2))
        return file

    def _server(self, name: Component, flags: dict[str, object], ready_path: str, *, tls: bool = True) -> Server:
        port = self._ports[name]
        words = [f"--{flag}={value}" for flag, value in flags.items()]
        log = self.folder / "logs" / f"{name}.log"
        return Server(name, [binary(name), *words], log, answers(port, ready_path, tls=tls), {})

    @property
    def _etcd_url(self) -> str:
        return f"http://127.0.0.1:{self._ports['etcd'].number}"

    def _etcd(self) -> Server:
        peer = f"http://127.0.0.1:{self._ports['etcd-peer'].number}"
        flags: dict[str, object] = {
            "name": "evolution",
            "data-dir": self.folder / "etcd",
            "listen-client-urls": self._etcd_url,
            "advertise-client-urls": self._etcd_url,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": f"evolution={peer}",
            "socket-reuse-port": "true",
            # Data outlive a killed process without it; only a machine that loses power needs it.
            "unsafe-no-fsync": "true",
            "log-level": "error",
        }
        return self._server("etcd", flags, "/health", tls=False)

    def _apiserver(self) -> Server:
        serving = self._authority.sign(
            "kube-apiserver",
            "kube-apiserver",
            names=("IP:127.0.0.1", "IP:10.0.0.1", "DNS:localhost", "DNS:kubernetes", "DNS:kubernetes.default.svc"),
        )
        kubelets = self._authority.sign("kubelet-client", "kube-apiserver-kubelet-client", (ADMINISTRATORS,))
        proxy = self._front_proxy.sign("front-proxy-client", "front-proxy-client")
        flags: dict[str, object] = {
            "etcd-servers": self._etcd_url,
            **self._serving("kube-apiserver", serving),
            "authorization-mode": "Node,RBAC",
            "client-ca-file": self._authority.own.file,
            "service-account-issuer": "https://kubernetes.default.svc",
            "service-account-key-file": self._account_public_key,
            "service-account-signing-key-file": self._account_key,
            "requestheader-client-ca-file": self._front_proxy.own.file,
            "requestheader-username-headers": "X-Remote-User",
            "requestheader-group-headers": "X-Remote-Group",
            "requestheader-extra-headers-prefix": "X-Remote-Extra-",
            "proxy-client-cert-file": proxy.file,
            "proxy-client-key-file": proxy.key,
            "kubelet-client-certificate": kubelets.file,
            "kubelet-client-key": kubelets.key,
            # Names of nodes are not in the DNS here.
            "kubelet-preferred-address-types": "InternalIP",
            "service-cluster-ip-range": "10.0.0.0/24",
            "endpoint-reconciler-type": "none",
            **self._apiserver_flags,
        }
        return self._server("kube-apiserver", flags, "/readyz")

    def _controller_manager(self) -> Server:
        flags: dict[str, object] = {
            **self._controller("kube-controller-manager"),
            "use-service-account-credentials": "true",
            "service-account-private-key-file": self._account_key,
            "root-ca-file": self._authority.own.file,
            "cluster-signing-cert-file": self._authority.own.file,
            "cluster-signing-key-file": self._authority.own.key,
        }
        return self._server("kube-controller-manager", flags, "/healthz")

    def _scheduler(self) -> Server:
        return self._server("kube-scheduler", self._controller("kube-scheduler"), "/readyz")

    def _controller(self, name: Component) -> dict[str, object]:
        kubeconfig = self.kubeconfig_for(f"system:{name}")
        serving = self._authority.sign(name, name, names=("IP:127.0.0.1",))
        return {
            "kubeconfig": kubeconfig,
            "authentication-kubeconfig": kubeconfig,
            "authorization-kubeconfig": kubeconfig,
            **self._serving(name, serving),
            "leader-elect": "false",
            "kube-api-qps": QPS,
            "kube-api-burst": 2 * QPS,
        }

    def _serving(self, name: Component, certificate: Certificate) -> dict[str, object]:
        return {
            "bind-address": "127.0.0.1",
            "secure-port": self._ports[name].number,
            "permit-port-sharing": "true",
            "tls-cert-file": certificate.file,
            "tls-private-key-file": certificate.key,
            "profiling": "false",
        }


@contextmanager
def control_plane(folder: Path, apiserver_flags: Mapping[str, object] | None = None) -> Iterator[ControlPlane]:
    """A control plane that is ready, and stopped at the end; `folder` may hold the state of an earlier one.

    Raises:
        Unavailable: a program is neither here nor can be built.
        RuntimeError: a component did not become ready.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ControlPlane(folder, apiserver_flags) as plane:
        yield plane


def _file_name(*parts: str) -> str:
    return "-".join(part.replace(":", ".").replace("/", ".") for part in parts)
