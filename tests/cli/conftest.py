"""A terminal in front of a real API server."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from controlplane.plane import ControlPlane
from terminals import Cluster, Terminal
from tools.build import binary


@pytest.fixture
def terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Terminal:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "kubectl").symlink_to(binary("kubectl"))
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("EVOLUTION_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("EVOLUTION_STORE", raising=False)
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    return Terminal(tmp_path, capsys, monkeypatch)


@pytest.fixture(scope="session")
def installed(control_plane: ControlPlane) -> ControlPlane:
    """A control plane that knows EvolutionRuns."""
    control_plane.install_crds()
    return control_plane


@pytest.fixture
def cluster(installed: ControlPlane, namespace: str, terminal: Terminal) -> Cluster:
    made = Cluster(terminal.folder, terminal.capture, terminal.patch, plane=installed, namespace=namespace)
    made.use(installed.kubeconfig)
    return made


@pytest.fixture(scope="session")
def without_operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The kubeconfig of a cluster where nothing is installed."""
    bare = ControlPlane(tmp_path_factory.mktemp("bare"))
    try:
        bare.start("etcd", "kube-apiserver")
        yield bare.kubeconfig
    finally:
        bare.__exit__()
