"""Sources on volume claims: where the operator mounts them, a worker finds them, and nothing beside them."""

from pathlib import Path

import pytest
from controlplane.pod_volumes import Mounts

from evolution.store.revisions import local_revision
from evolution.store.sources import SourceUnusable, local_copy


@pytest.fixture
def claims(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two claims, mounted as on a node whose pods are processes."""
    for name in ("models/qwen/config.json", "manuals.team-a/pump.md"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("{}")
    mounts = Mounts({f"/sources/{name}": tmp_path / name for name in ("models", "manuals.team-a")})
    variables = {"EVOLUTION_CLAIMS": "/sources/manuals.team-a:/sources/models"}
    for name, value in mounts.in_environment(variables).items():
        monkeypatch.setenv(name, value)
    return tmp_path


def test_a_worker_reads_what_lies_on_a_claim_in_place(claims: Path) -> None:
    nowhere = claims / "cache"
    assert local_copy("pvc://models/qwen/", nowhere) == claims / "models" / "qwen"
    assert local_copy("pvc://manuals.team-a", nowhere) == claims / "manuals.team-a"
    assert local_copy("pvc://manuals.team-a/pump.md", nowhere).read_text() == "{}"
    assert not nowhere.exists()


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("pvc://models/lama", "there is no such file or folder on the claim models"),
        ("pvc://others/qwen", "mounted into a cluster's workers alone"),
        ("pvc://models/../manuals.team-a", "names no volume claim"),
        ("pvc:///models", "names no volume claim"),
    ],
)
@pytest.mark.usefixtures("claims")
def test_what_is_not_on_a_mounted_claim_is_refused(tmp_path: Path, uri: str, said: str) -> None:
    with pytest.raises(SourceUnusable, match=said):
        local_copy(uri, tmp_path)


@pytest.mark.parametrize("uri", ["pvc://models/qwen", "pvc://models/qwen/deep/secret.txt", "pvc://models/qwen/deep"])
def test_links_that_lead_out_of_a_claim_are_refused(claims: Path, uri: str) -> None:
    (claims / "secret.txt").write_text("of the worker")
    (claims / "models" / "qwen" / "deep").mkdir()
    (claims / "models" / "qwen" / "deep" / "secret.txt").symlink_to(claims / "secret.txt")
    with pytest.raises(SourceUnusable, match=r"secret\.txt is a link to .*, which lies outside of the claim models"):
        local_copy(uri, claims / "cache")


def test_links_within_a_claim_are_followed(claims: Path) -> None:
    (claims / "models" / "newest").symlink_to("qwen")
    (claims / "models" / "circle").symlink_to("circle")
    assert (local_copy("pvc://models/newest", claims / "cache") / "config.json").read_text() == "{}"
    assert local_copy("pvc://models", claims / "cache") == claims / "models"


def test_on_a_laptop_the_way_to_the_folder_itself_is_told(tmp_path: Path) -> None:
    with pytest.raises(SourceUnusable, match="on this machine name the folder itself, as in file:///folder"):
        local_copy("pvc://models/qwen", tmp_path)


def test_the_content_of_a_claim_is_no_part_of_a_runs_identity_on_a_laptop(tmp_path: Path) -> None:
    assert local_revision("pvc://models/qwen", tmp_path) == ""
