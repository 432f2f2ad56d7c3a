"""The images, built once for all tests of a process."""

import os
import shutil
from collections.abc import Iterator

import pytest
from buildah import PROGRAMS, Image, Images
from buildah import images as built_images
from debian_base import cached_base


@pytest.fixture(scope="session")
def images() -> Iterator[Images]:
    """A builder that has the base."""
    if why := _missing():
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    with built_images() as builder:
        builder.load_base(cached_base())
        yield builder


@pytest.fixture(scope="session")
def operator_image(images: Images) -> Image:
    return images.build("operator/Dockerfile", REVISION="0123abc", SOURCE="https://git.example/evolution")


@pytest.fixture(scope="session")
def trainer_image(images: Images) -> Image:
    """For GPUs."""
    return images.build("trainer_image/Dockerfile", REVISION="0123abc", SOURCE="https://git.example/evolution")


def _missing() -> str:
    """Why images cannot be built here; empty if they can."""
    if os.geteuid() != 0:
        return "images are built and run by root"
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    return f"not on the PATH: {', '.join(absent)} (Debian's packages of these names)" if absent else ""
