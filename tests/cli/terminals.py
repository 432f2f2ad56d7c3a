"""`evolve` in front of a real API server; statuses are written as the operator writes them."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from controlplane.plane import ControlPlane
from controlplane.waiting import eventually
from simulated import MINIMAL, merged

from evolution.cli.main import main

EVOLVE = Path(sys.executable).with_name("evolve")


@dataclass(frozen=True)
class Said:
    """What a command left behind."""

    code: int
    out: str
    err: str


@dataclass
class Terminal:
    """Commands as a person types them, in a folder of theirs, with kubectl at hand."""

    folder: Path
    capture: pytest.CaptureFixture[str]
    patch: pytest.MonkeyPatch

    def evolve(self, *arguments: str, program: str = "evolve") -> Said:
        self.patch.setattr(sys, "argv", [f"/usr/local/bin/{program}", *arguments])
        self.capture.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        shown = self.capture.readouterr()
        return Said(int(left.value.code or 0), shown.out, shown.err)

    @contextmanager
    def started(self, *arguments: str, **streams: Any) -> Iterator["subprocess.Popen[str]"]:
        """`evolve` as a process of its own, ended at the latest with the context."""
        process = subprocess.Popen([EVOLVE, *arguments], stderr=subprocess.STDOUT, text=True, **streams)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


@dataclass
class Cluster(Terminal):
    """The same, with a kubeconfig whose context names a namespace of the test's own."""

    plane: ControlPlane = field(kw_only=True)
    namespace: str = field(kw_only=True)

    def file(self, spec: Mapping[str, Any] | None = None, *, name: str = "manuals", **metadata: str) -> Path:
        """A run file."""
        document = {
            "apiVersion": "selfevolution.io/v1alpha1",
            "kind": "EvolutionRun",
            "metadata": {"name": name, **metadata},
            "spec": merged(MINIMAL, spec or {}),
        }
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
        return path

    def submitted(self, spec: Mapping[str, Any] | None = None, *, name: str = "manuals") -> str:
        """The name of a run that the cluster has."""
        self.kubectl("apply", "--server-side", "--field-manager=evolve", f"--filename={self.file(spec, name=name)}")
        return name

    def run(self, name: str = "manuals") -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.kubectl("get", "evolutionruns", name, "--output=json"))
        return found

    def operator_says(self, name: str = "manuals", **status: Any) -> None:
        """Write a status as the operator would."""
        now = {"observedGeneration": self.run(name)["metadata"]["generation"], **status}
        patch = json.dumps({"status": now})
        self.kubectl("patch", "evolutionruns", name, "--subresource=status", "--type=merge", f"--patch={patch}")

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return self.plane.kubectl("--namespace", self.namespace, *arguments, input=stdin)

    def use(self, kubeconfig: Path) -> None:
        """From now on, this kubeconfig and the namespace of the test."""
        document = json.loads(kubeconfig.read_text())
        document["contexts"][0]["context"]["namespace"] = self.namespace
        mine = self.folder / "kubeconfig"
        mine.write_text(json.dumps(document))
        self.patch.setenv("KUBECONFIG", str(mine))


class Heard:
    """What a process has printed so far, read beside the test."""

    def __init__(self, chunks: Iterator[str]) -> None:
        self._text = ""
        threading.Thread(target=self._read, args=(chunks,), daemon=True).start()

    def wait_for(self, text: str) -> None:
        eventually(lambda: text in self._text, f"{text!r} on the screen")

    def _read(self, chunks: Iterator[str]) -> None:
        for chunk in chunks:
            self._text += chunk


class Lines(Heard):
    def __init__(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        super().__init__(iter(process.stdout))


class Screen(Heard):
    def __init__(self, terminal: int) -> None:
        super().__init__(self._chunks(terminal))

    @staticmethod
    def _chunks(terminal: int) -> Iterator[str]:
        while True:
            try:
                yield os.read(terminal, 65536).decode("utf-8", "replace")
            except OSError:  # the process has left
                return
