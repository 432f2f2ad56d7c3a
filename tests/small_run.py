"""A run that takes seconds: a few documents of the quickstart, its tiny model, a handful of training steps."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from simulated import merged

QUICKSTART = Path(__file__).parents[1] / "examples" / "quickstart"
EVOLVE = Path(sys.executable).with_name("evolve")

SMALL: Mapping[str, Any] = {
    "rounds": 2,
    "model": {"uri": str(QUICKSTART / "model")},
    "documents": {"uri": "documents"},
    "evaluation": {"uri": "questions.jsonl", "maxTokens": 8},
    "selection": {"strategy": "Hard", "size": 4, "maxIFD": None},
    "generation": {"questionsPerDocument": 1},
    "training": {"maxSteps": 3, "batchSize": 8},
}


@dataclass(frozen=True)
class Workplace:
    """A folder with a run file, its documents and its store."""

    folder: Path
    store: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def file(self) -> Path:
        return self.folder / "run.yaml"

    def edit(self, spec: Mapping[str, Any]) -> None:
        """Change fields of the run file."""
        document = yaml.safe_load(self.file.read_text(encoding="utf-8"))
        document["spec"] = merged(document["spec"], spec)
        self.file.write_text(yaml.safe_dump(document, allow_unicode=True), encoding="utf-8")

    def command(self, *arguments: str) -> list[str]:
        name, *rest = arguments
        return [str(EVOLVE), name, str(self.file), *rest, *(["--store", self.store] if self.store else [])]

    def evolve(
        self, *arguments: str, input_: str | None = None, timeout: float = 240
    ) -> subprocess.CompletedProcess[str]:
        """`evolve <command> run.yaml …`, to its end."""
        return subprocess.run(
            self.command(*arguments),
            env=self.env,
            input=input_,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def start(self, *arguments: str) -> "subprocess.Popen[bytes]":
        """The same, not waited for."""
        return subprocess.Popen(
            self.command(*arguments), env=self.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    @property
    def env(self) -> dict[str, str]:
        cache = {"EVOLUTION_CACHE": str(self.folder / "cache"), "COLUMNS": "120"}
        return {k: v for k, v in os.environ.items() if k != "EVOLUTION_STORE"} | cache | dict(self.environment)

    def stages(self) -> dict[str, dict[str, Any]]:
        """Every stage of the run's graph by id, as `evolve plan --json` shows it."""
        planned = self.evolve("plan", "--json")
        assert planned.returncode == 0, planned.stderr
        return {stage["id"]: stage for stage in json.loads(planned.stdout)["stages"]}

    def manifests(self) -> dict[str, dict[str, Any]]:
        """Every manifest in the store's folder by fingerprint."""
        folder = self.folder / ".evolution" / "default" / "stages"
        return {path.stem: json.loads(path.read_bytes()) for path in folder.glob("*.json")} if folder.exists() else {}


def small_workplace(
    folder: Path, spec: Mapping[str, Any] | None = None, *, documents: int = 6, **more: Any
) -> Workplace:
    """A `Workplace` in `folder` with the first documents of the quickstart and the questions about them."""
    sources = sorted((QUICKSTART / "documents").iterdir())[:documents]
    (folder / "documents").mkdir(parents=True)
    texts = []
    for source in sources:
        texts.append(source.read_text(encoding="utf-8"))
        (folder / "documents" / source.name).write_text(texts[-1], encoding="utf-8")
    items = [json.loads(line) for line in (QUICKSTART / "questions.jsonl").read_text(encoding="utf-8").splitlines()]
    asked = [item for item in items if any(_about(item["question"], text) for text in texts)]
    (folder / "questions.jsonl").write_text("".join(json.dumps(item) + "\n" for item in asked), encoding="utf-8")
    document = yaml.safe_load((QUICKSTART / "run.yaml").read_text(encoding="utf-8"))
    document["metadata"] = {"name": "small"}
    document["spec"] = merged(merged(document["spec"], SMALL), spec or {})
    (folder / "run.yaml").write_text(yaml.safe_dump(document, allow_unicode=True), encoding="utf-8")
    return Workplace(folder, **more)


def _about(question: str, text: str) -> bool:
    machine = question.removeprefix("For the ").partition(",")[0]
    return machine in text
