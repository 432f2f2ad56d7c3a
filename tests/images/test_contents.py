"""What is in the images, and what is not."""

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from buildah import Image, locked

from evolution_operator.jobs import USER

pytestmark = [pytest.mark.ship, pytest.mark.timeout(1800)]
MEGABYTES = {"operator": 200, "trainer": 6000}
"""Nine tenths of the trainer's are torch and the libraries of CUDA."""
BUILDS_OR_INSTALLS = {"cc", "gcc", "g++", "c++", "clang", "ld", "make", "pip", "pip3", "pip3.11", "uv", "easy_install"}


@pytest.fixture(scope="session", params=["operator", "trainer"])
def image(request: pytest.FixtureRequest) -> Image:
    found: Image = request.getfixturevalue(f"{request.param}_image")
    return found


class Found(NamedTuple):
    path: Path
    mode: int
    owner: int


def files(image: Image) -> Iterator[Found]:
    """Everything in the image but links."""
    for folder, _, names in os.walk(image.root):
        for place in (Path(folder), *(Path(folder, name) for name in names)):
            told = place.lstat()
            if not stat.S_ISLNK(told.st_mode):
                yield Found(Path("/") / place.relative_to(image.root), told.st_mode, told.st_uid)


def title(image: Image) -> str:
    return str(image.config["Labels"]["org.opencontainers.image.title"]).removeprefix("evolution-")


def test_nothing_is_installed_but_what_the_lock_has(image: Image) -> None:
    found = image.packages
    assert found.pop("evolution") == image.config["Labels"]["org.opencontainers.image.version"]
    assert found == locked(title(image))


def test_the_operators_image_has_no_torch(operator_image: Image) -> None:
    assert not operator_image.packages.keys() & {"torch", "transformers", "numpy"}
    assert [path for path in operator_image.root.rglob("*torch*") if path.is_file()] == []


def test_nobody_but_root_can_change_what_is_roots(image: Image) -> None:
    writable = [f.path for f in files(image) if f.owner == 0 and f.mode & stat.S_IWOTH and not f.mode & stat.S_ISVTX]
    assert [path for path in writable if path.parts[1] != "dev"] == []


def test_the_images_user_owns_nothing_but_an_empty_folder(image: Image) -> None:
    assert [f.path for f in files(image) if f.owner == USER] == [Path("/cache")]
    assert [*(image.root / "cache").iterdir()] == []


def test_no_program_makes_somebody_else_of_its_user(image: Image) -> None:
    assert [f.path for f in files(image) if stat.S_ISREG(f.mode) and f.mode & (stat.S_ISUID | stat.S_ISGID)] == []


def test_nothing_compiles_or_installs_python_packages(image: Image) -> None:
    programs = [f.path for f in files(image) if stat.S_ISREG(f.mode) and f.mode & stat.S_IXUSR]
    assert [path for path in programs if path.name in BUILDS_OR_INSTALLS] == []
    assert [path for path in image.root.rglob("ensurepip") if path.is_dir()] == []


def test_an_image_says_what_it_is_and_where_it_comes_from(image: Image) -> None:
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in image.config["Labels"].items()}
    assert labels["version"] == "0.1.0"
    assert labels["revision"] == "0123abc"
    assert labels["source"] == "https://git.example/evolution"
    assert labels["licenses"] == "Apache-2.0"
    assert image.config["User"] == f"{USER}:{USER}"


def test_the_bill_of_materials_has_all_packages_of_python_and_of_debian(image: Image) -> None:
    bill = json.loads((image.root / "opt/evolution/sbom.cdx.json").read_bytes())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    told = {component["purl"].split("?")[0]: component for component in bill["components"]}
    assert len(told) == len(bill["components"])
    python = {f"pkg:pypi/{name}@{version}" for name, version in image.packages.items()}
    assert {purl for purl in told if purl.startswith("pkg:pypi/")} == python
    listed = [p.name.removesuffix(".list") for p in (image.root / "var/lib/dpkg/info").glob("*.list")]
    debian = {component["name"] for purl, component in told.items() if purl.startswith("pkg:deb/debian/")}
    assert debian == {name.partition(":")[0] for name in listed} != set()
    assert told[f"pkg:pypi/pydantic@{image.packages['pydantic']}"]["licenses"] == [{"expression": "MIT"}]


def test_an_image_is_not_larger_than_it_is_said_to_be(image: Image, capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\n{title(image)}: {image.megabytes:.0f} MB, built in {image.build_seconds:.0f} s")  # noqa: T201
    assert image.megabytes < MEGABYTES[title(image)]
