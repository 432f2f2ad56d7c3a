import os
from pathlib import Path

import pytest

from evolution.store.revisions import local_revision
from evolution.store.sources import SourceUnusable


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "documents" / "deep").mkdir(parents=True)
    (tmp_path / "documents" / "deep" / "a.txt").write_text("one")
    return tmp_path / "documents"


def test_a_revision_changes_with_every_kind_of_edit(folder: Path, tmp_path: Path) -> None:
    def revision() -> str:
        return local_revision(folder.as_uri(), tmp_path / "cache")

    file = folder / "deep" / "a.txt"
    seen = [revision()]
    file.write_text("two")
    seen.append(revision())
    file.rename(folder / "deep" / "b.txt")
    seen.append(revision())
    (folder / "c.txt").write_text("")
    seen.append(revision())
    assert len({*seen}) == 4
    (folder / "c.txt").unlink()
    assert revision() == seen[2]


def test_touching_copying_and_moving_change_nothing(folder: Path, tmp_path: Path) -> None:
    before = local_revision(folder.as_uri(), tmp_path / "cache")
    os.utime(folder / "deep" / "a.txt", ns=(1, 1))
    assert local_revision(str(folder), tmp_path / "cache") == before
    folder.rename(tmp_path / "moved")
    assert local_revision((tmp_path / "moved").as_uri(), tmp_path / "other-cache") == before


def test_an_unchanged_file_is_not_read_again(folder: Path, tmp_path: Path) -> None:
    file = folder / "deep" / "a.txt"
    before = local_revision(folder.as_uri(), tmp_path / "cache")
    stat = file.stat()
    file.write_text("two")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert local_revision(folder.as_uri(), tmp_path / "cache") == before, "same size and time: taken for the same"
    assert local_revision(folder.as_uri(), tmp_path / "fresh-cache") != before


def test_a_spoilt_note_is_as_good_as_none(folder: Path, tmp_path: Path) -> None:
    before = local_revision(folder.as_uri(), tmp_path / "cache")
    for note in (tmp_path / "cache" / "revisions").iterdir():
        note.write_text("[1, 2")
    assert local_revision(folder.as_uri(), tmp_path / "cache") == before


def test_a_single_file_has_a_revision(tmp_path: Path) -> None:
    file = tmp_path / "items.jsonl"
    file.write_text("{}")
    before = local_revision(file.as_uri(), tmp_path / "cache")
    file.write_text("[]")
    os.utime(file, ns=(1, 1))
    assert local_revision(file.as_uri(), tmp_path / "cache") != before


def test_a_dangling_link_is_no_file_of_the_source(folder: Path, tmp_path: Path) -> None:
    before = local_revision(folder.as_uri(), tmp_path / "cache")
    (folder / "gone.txt").symlink_to(tmp_path / "nowhere")
    assert local_revision(folder.as_uri(), tmp_path / "cache") == before


def test_a_source_that_is_not_there_is_named(tmp_path: Path) -> None:
    uri = (tmp_path / "no-such").as_uri()
    with pytest.raises(SourceUnusable, match=f"{uri}: there is no such file or folder"):
        local_revision(uri, tmp_path / "cache")


def test_remote_sources_have_no_local_revision(tmp_path: Path) -> None:
    assert local_revision("s3://bucket/prefix", tmp_path) == local_revision("hf://org/name", tmp_path) == ""
