"""A file or folder on a volume claim: on a cluster the operator mounts the claims that a run names, for reading."""

import os
from pathlib import Path

from evolution.api.locations import claim_and_path
from evolution.store.source_files import SourceUnusable

CLAIMS = "EVOLUTION_CLAIMS"
"""Environment variable with the folders where claims are mounted, separated by `:`; each has the name of its claim."""


def mounted(uri: str) -> Path:
    """Where pvc://claim/path lies.

    Raises:
        SourceUnusable: the claim is not mounted here, or nothing is there.
    """
    place = claim_and_path(uri)
    if place is None:
        raise SourceUnusable(f"{uri!r} names no volume claim; give pvc://claim/path")
    claim, path = place
    folders = [Path(folder) for folder in os.environ.get(CLAIMS, "").split(":") if folder]
    folder = next((folder for folder in folders if folder.name == claim), None)
    if folder is None:
        raise SourceUnusable(
            f"{uri}: volume claims are mounted into a cluster's workers alone; on this machine name the folder itself, "
            "as in file:///folder"
        )
    if not (folder / path).exists():
        raise SourceUnusable(f"{uri}: there is no such file or folder on the claim {claim}")
    if not os.access(folder / path, os.R_OK):
        raise SourceUnusable(
            f"{uri}: not readable for user {os.getuid()}, as whom workers run; change its mode or owner"
        )
    return folder / path
