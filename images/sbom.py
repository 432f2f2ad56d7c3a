"""`python sbom.py NAME VERSION`: what is installed where this runs, Python's and Debian's packages, as CycloneDX 1.6.

The same packages give the same bytes: no time, no serial number.
"""

import json
import platform
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any
from urllib.parse import quote

DPKG = Path("/var/lib/dpkg/status")
LONGEST_LICENCE = 100
"""Some packages put the whole text where the name belongs."""

Component = dict[str, Any]


def bill(name: str, version: str) -> dict[str, Any]:
    """The bill of materials of the image `name`."""
    interpreter = _component("python", platform.python_version(), f"pkg:generic/python@{platform.python_version()}")
    found = [interpreter, *map(_python, distributions()), *_debian()]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"type": "container", "bom-ref": name, "name": name, "version": version}},
        "components": sorted(found, key=lambda component: component["purl"]),
    }


def _python(distribution: Distribution) -> Component:
    name = distribution.metadata["Name"].lower().replace("_", "-").replace(".", "-")
    component = _component(name, distribution.version, f"pkg:pypi/{name}@{quote(distribution.version)}")
    return component | {"licenses": licences} if (licences := _licences(distribution)) else component


def _licences(distribution: Distribution) -> list[Component]:
    told = distribution.metadata
    if expression := told.get("License-Expression"):
        return [{"expression": expression}]
    classified = [c.split(" :: ")[-1] for c in told.get_all("Classifier", []) if c.startswith("License :: ")]
    names = classified or [told.get("License") or ""]
    return [{"license": {"name": name}} for name in names if 0 < len(name) <= LONGEST_LICENCE and "\n" not in name]


def _debian() -> Iterator[Component]:
    if not DPKG.exists():
        return
    for paragraph in DPKG.read_text(encoding="utf-8").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in paragraph.splitlines() if ": " in line and line[0] != " ")
        if fields.get("Status", "").endswith(" installed"):
            name, version = fields["Package"], fields["Version"]
            purl = f"pkg:deb/debian/{quote(name)}@{quote(version, safe='')}?arch={fields['Architecture']}"
            yield _component(name, version, purl)


def _component(name: str, version: str, purl: str) -> Component:
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


if __name__ == "__main__":
    json.dump(bill(*sys.argv[1:3]), sys.stdout, indent=1, ensure_ascii=False)
    sys.stdout.write("\n")
