"""Tools are found in a fixed order of places, and where there are none the reason is told."""

import os
from pathlib import Path

import pytest
from tools.build import SOURCES, Source, Unavailable, binary

GO_THAT_WRITES_ITS_ARGUMENTS = """#!/bin/sh
arguments="$*"
while [ "$1" != -o ]; do shift; done
echo "$arguments" >"$2"
"""


def program(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_the_assets_come_before_the_path_and_the_path_before_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assets, on_path = program(tmp_path / "assets" / "minio"), program(tmp_path / "path" / "minio")
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(assets.parent))
    monkeypatch.setenv("PATH", str(on_path.parent))
    assert binary("minio") == assets
    monkeypatch.delenv("KUBEBUILDER_ASSETS")
    assert binary("minio") == on_path


def test_without_go_the_reason_is_told_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    with pytest.raises(Unavailable, match="without Go it cannot be built"):
        binary("minio")


def test_a_build_that_fails_says_why_and_leaves_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go = program(tmp_path / "go")
    go.write_text("#!/bin/sh\necho no network >&2\nexit 1\n")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/usr/bin{os.pathsep}/bin")
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    with pytest.raises(Unavailable, match="could not be built: no network"):
        binary("minio")
    assert [p.name for p in (tmp_path / "cache" / "evolution" / "bin").iterdir()] == ["minio.lock"]


@pytest.mark.parametrize("package", [".", "./command"])
def test_a_tool_of_our_own_is_built_anew_when_its_go_files_change(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, own = program(tmp_path / "go"), tmp_path / "module" / package
    go.write_text(GO_THAT_WRITES_ITS_ARGUMENTS)
    own.mkdir(parents=True)
    for name in ("go.mod", "go.sum"):
        (tmp_path / "module" / name).write_text("pinned")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/usr/bin{os.pathsep}/bin")
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    monkeypatch.setitem(SOURCES, "ours", Source(str(tmp_path / "module"), package))

    (own / "main.go").write_text("package main")
    first = binary("ours")
    assert binary("ours") == first
    (own / "main.go").write_text("package main // better")
    assert binary("ours") != first


def test_prometheus_is_built_without_service_discovery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go = program(tmp_path / "go")
    go.write_text(GO_THAT_WRITES_ITS_ARGUMENTS)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/usr/bin{os.pathsep}/bin")
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    assert "-tags remove_all_sd" in binary("promtool").read_text()
