"""Servers that the tests run against: found, or built once from their pinned Go modules into a cache.

`python tests/tools/build.py minio` builds ahead of a test run, which would otherwise wait for it.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Self

KUBERNETES = "v1.34.4"


@dataclass(frozen=True)
class Source:
    """Where a tool is built from: a folder beside this file that pins every version, and the main package."""

    module: str
    package: str
    link_flags: str = ""
    tags: str = ""

    @classmethod
    def kubernetes(cls, component: str) -> Self:
        stamp = "-X k8s.io/component-base/version.git"
        major, minor, _ = KUBERNETES.removeprefix("v").split(".")
        return cls(
            "kubernetes",
            f"./{component}",
            f"{stamp}Version={KUBERNETES} {stamp}Major={major} {stamp}Minor={minor}",
        )

    @classmethod
    def prometheus(cls, command: str) -> Self:
        """Without service discovery, whose cloud libraries take most of the time of a build."""
        return cls("prometheus", f"github.com/prometheus/prometheus/cmd/{command}", tags="remove_all_sd")

    @classmethod
    def helm3(cls) -> Self:
        """Helm 3 has to be told which Kubernetes its templates are to see where there is no cluster; Helm 4 knows."""
        root = "helm.sh/helm/v3"
        minor = "k8sVersionMinor=37"
        return cls("helm", f"{root}/cmd/helm", f"-X {root}/pkg/chartutil.{minor} -X {root}/pkg/lint/rules.{minor}")


SOURCES = {
    "minio": Source("minio", "github.com/minio/minio"),
    "etcd": Source("etcd", "go.etcd.io/etcd/server/v3"),
    "kube-apiserver": Source.kubernetes("kube-apiserver"),
    "kube-controller-manager": Source.kubernetes("kube-controller-manager"),
    "kube-scheduler": Source.kubernetes("kube-scheduler"),
    "kubectl": Source.kubernetes("kubectl"),
    "prometheus": Source.prometheus("prometheus"),
    "promtool": Source.prometheus("promtool"),
    "helm": Source.helm3(),
    "helm4": Source("helm4", "helm.sh/helm/v4/cmd/helm"),
    "flux-health": Source("flux", "."),
    "kueue": Source("kueue", "sigs.k8s.io/kueue/cmd/kueue"),
    "jobset": Source("jobset", "sigs.k8s.io/jobset"),
    "workflow-controller": Source("argo", "github.com/argoproj/argo-workflows/v3/cmd/workflow-controller"),
}
TESTS = (
    "minio",
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubectl",
    "prometheus",
    "promtool",
    "helm",
    "helm4",
    "flux-health",
)
"""What the test command needs; the others are for benchmarks and `make test-ship`."""


class Unavailable(Exception):
    """A tool is neither here nor can be built here, and why."""


def binary(tool: str) -> Path:
    """The program: from KUBEBUILDER_ASSETS, the PATH, the cache, or else built now (minutes, once per machine).

    Raises:
        Unavailable: there is no Go, or it could not build.
    """
    assets = os.environ.get("KUBEBUILDER_ASSETS", "")
    if assets and (found := shutil.which(tool, path=assets)):
        return Path(found)
    if found := shutil.which(tool):
        return Path(found)
    source = SOURCES[tool]
    module = Path(__file__).parent / source.module
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "evolution" / "bin"
    built = cache / f"{tool}-{_made_of(source, module)}"
    if built.exists():
        return built
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{tool}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not built.exists():
            _build(tool, source, module, built)
    return built


def _made_of(source: Source, module: Path) -> str:
    """A digest of the pinned versions, and of the main package where it is one of ours."""
    ours = (module / source.package).glob("*.go") if source.package.startswith(".") else ()
    parts = [module / "go.mod", module / "go.sum", *sorted(ours)]
    return hashlib.sha256(b"".join(part.read_bytes() for part in parts)).hexdigest()[:12]


def _build(tool: str, source: Source, module: Path, built: Path) -> None:
    go = shutil.which("go")
    if go is None:
        raise Unavailable(f"{tool} is not on the PATH, and without Go it cannot be built")
    sys.stderr.write(f"building {tool}, once: some minutes\n")
    partial = built.with_name(f"{built.name}.partial")
    flags = f"-s -w {source.link_flags}".strip()
    command = [go, "build", "-trimpath", "-tags", source.tags, "-ldflags", flags, "-o", str(partial)]
    done = subprocess.run(
        [*command, source.package],
        cwd=module,
        env={**os.environ, "CGO_ENABLED": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        partial.unlink(missing_ok=True)
        raise Unavailable(f"{tool} could not be built: {' '.join(done.stderr.strip().splitlines()[-3:])}")
    partial.replace(built)


if __name__ == "__main__":
    try:
        sys.stdout.writelines(f"{binary(tool)}\n" for tool in sys.argv[1:] or TESTS)
    except Unavailable as error:
        sys.exit(str(error))
