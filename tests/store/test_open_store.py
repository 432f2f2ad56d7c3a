"""A location opens the store there, or says which locations would."""

from pathlib import Path

import pytest

from evolution.store.base import StoreRefused
from evolution.store.folder import FolderStore
from evolution.store.open import open_store
from evolution.store.s3 import S3Store


def test_a_folder_is_opened_by_uri_and_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a store, 中文 #1?"
    monkeypatch.chdir(tmp_path)
    for location in (folder.as_uri(), str(folder), folder.name):
        store = open_store(location)
        assert isinstance(store, FolderStore)
        assert store.uri == folder.as_uri()


@pytest.mark.parametrize(
    ("location", "uri"),
    [
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/", "s3://bucket"),
        ("s3://bucket/evolution/team-a/", "s3://bucket/evolution/team-a"),
    ],
)
def test_a_bucket_is_opened_with_or_without_a_prefix(monkeypatch: pytest.MonkeyPatch, location: str, uri: str) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    store = open_store(location)
    assert isinstance(store, S3Store)
    assert store.uri == uri


@pytest.mark.parametrize("location", ["", "gs://bucket/x", "http://host/x", "S3://bucket"])
def test_other_locations_are_refused_with_what_is_supported(location: str) -> None:
    with pytest.raises(StoreRefused, match="file:///folder, a folder's path or s3://bucket/prefix are supported"):
        open_store(location)


@pytest.mark.parametrize(
    ("location", "message"),
    [("file://folder", "three slashes"), ("s3://", "names no bucket"), ("s3:///prefix", "names no bucket")],
)
def test_slips_of_the_pen_are_explained(location: str, message: str) -> None:
    with pytest.raises(StoreRefused, match=message):
        open_store(location)
