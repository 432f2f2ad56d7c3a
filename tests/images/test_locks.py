"""What images are made of is pinned, and the same as what is tested."""

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
LOCK = REPOSITORY / "requirements.lock"


def entries(lock: Path) -> dict[str, set[str]]:
    """The hashes of each `name==version`."""
    found: dict[str, set[str]] = {}
    for line in lock.read_text(encoding="utf-8").splitlines():
        if line[0].isalnum():
            hashes = found.setdefault(line.split()[0], set())
        elif digest := re.search(r"--hash=(sha256:[0-9a-f]{64})", line):
            hashes.add(digest[1])
    return found


@pytest.mark.parametrize("image", ["operator", "trainer"])
def test_an_image_gets_nothing_but_what_the_lock_has(image: str) -> None:
    whole, part = entries(LOCK), entries(REPOSITORY / "images" / f"{image}.lock")
    assert part
    assert {name: whole.get(name) for name in part} == part


def test_what_wheels_are_built_with_is_pinned_and_of_the_versions_of_the_lock() -> None:
    tools, whole = entries(REPOSITORY / "images/build.lock"), entries(LOCK)
    assert all(tools.values())
    locked = {requirement.split("==")[0]: requirement for requirement in whole}
    assert [tool for tool in tools if locked.get(tool.split("==")[0], tool) != tool] == []


def test_the_operators_image_gets_no_torch() -> None:
    names = {requirement.split("==")[0] for requirement in entries(REPOSITORY / "images/operator.lock")}
    assert "kopf" in names
    assert not names & {"torch", "transformers", "triton", "numpy"}
