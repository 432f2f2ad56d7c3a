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
        SourceUnusable: the claim is not mounted here, nothing is there, or links lead out of the claim.
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
    _refuse_ways_out(folder / path, folder, uri)
    if not (folder / path).exists():
        raise SourceUnusable(f"{uri}: there is no such file or folder on the claim {claim}")
    if not os.access(folder / path, os.R_OK):
        raise SourceUnusable(
            f"{uri}: not readable for user {os.getuid()}, as whom workers run; change its mode or owner"
        )
    return folder / path


def _refuse_ways_out(place: Path, claim: Path, uri: str) -> None:
    """A link could name what else the worker may read, such as the credentials of the store in its environment."""
    inside = Path(os.path.realpath(claim))
    for found in (place, *(path for path in place.rglob("*") if path.is_symlink())):
        # Unlike Path.resolve, realpath bears links in a circle.
        target = Path(os.path.realpath(found))
        if not target.is_relative_to(inside):
            raise SourceUnusable(
                f"{uri}: {found.relative_to(claim)} is a link to {target}, which lies outside of the claim "
                f"{claim.name}; put the file itself on the claim"
            )
