"""The chart, as Helm sees it."""

import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

Json = dict[str, Any]

REPOSITORY = Path(__file__).parents[2]
CHART = REPOSITORY / "helm" / "evolution-operator"
VALUES = {path.stem: path for path in sorted((Path(__file__).parent / "values").glob("*.yaml"))}
RELEASE = "evolution-operator"


@dataclass(frozen=True)
class Helm:
    """A version of Helm, with a home of its own."""

    program: Path
    home: Path
    kubeconfig: Path | None = None
    chart: Path = field(default=CHART)

    def __call__(self, *arguments: str | Path) -> str:
        """What it said, and is expected to succeed in."""
        done = self.run(*arguments)
        assert done.returncode == 0, f"helm {' '.join(map(str, arguments))}: {done.stdout}{done.stderr}"
        return done.stdout

    def run(self, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
        environment = {
            **os.environ,
            "HELM_CACHE_HOME": str(self.home / "cache"),
            "HELM_CONFIG_HOME": str(self.home / "config"),
            "HELM_DATA_HOME": str(self.home / "data"),
            # Without one, no cluster that somebody works with is asked either.
            "KUBECONFIG": str(self.kubeconfig or os.devnull),
        }
        command = [str(self.program), *map(str, arguments)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    def objects(self, values: str | Path, *arguments: str, namespace: str = "evolution-system") -> list[Json]:
        """What the chart becomes with a set of values: the name of one in values/, or a file."""
        return objects(
            self("template", RELEASE, self.chart, "-n", namespace, "-f", VALUES.get(str(values), values), *arguments)
        )

    def refusal(self, *settings: str) -> str:
        """What it says to these settings, beside those of values/minimal.yaml."""
        given = [argument for setting in settings for argument in ("--set", setting)]
        done = self.run("template", RELEASE, self.chart, "-n", "evolution-system", "-f", VALUES["minimal"], *given)
        assert done.returncode != 0, f"{settings} is let through"
        return done.stderr


def objects(manifests: str) -> list[Json]:
    return [object_ for object_ in yaml.load_all(manifests, yaml.CSafeLoader) if object_]


def of_kind(found: list[Json], *kinds: str) -> list[Json]:
    return [object_ for object_ in found if object_["kind"] in kinds]


def operator_container(found: list[Json]) -> Json:
    (deployment,) = (each for each in of_kind(found, "Deployment") if each["metadata"]["name"] == RELEASE)
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return dict(container)
