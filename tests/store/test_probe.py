"""`python -m evolution.store.probe`: what a platform team asks a store before it trusts it."""

import subprocess
import sys
from pathlib import Path

import pytest
from faulty_proxy import FaultyProxy
from minio_server import MinioBucket

from evolution.store.base import ObjectStore
from evolution.store.open import open_store
from evolution.store.probe import judged


def probe(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "evolution.store.probe", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_store_that_is_fit_is_said_to_be_and_left_as_it_was(store: ObjectStore) -> None:
    done = probe(store.uri)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{store.uri} is fit: 20 races of 32 writers, 0 of them wrong\n"
    assert not list(store.list(""))


@pytest.mark.slow
@pytest.mark.minio
def test_a_server_on_which_several_writers_win_is_not_fit(proxy: FaultyProxy, minio: MinioBucket) -> None:
    proxy.ignores_conditions = True
    done = probe(f"{minio.uri}/team-a")
    assert done.returncode == 1
    assert "writers were told that they had won, where it must be one" in done.stderr
    assert "is not fit: see docs/store.md" in done.stdout


def test_a_winner_whose_object_was_replaced_is_a_defect(tmp_path: Path) -> None:
    store = open_store(tmp_path.as_uri())
    store.write("probe/0", b"the last one")
    assert judged(store, "probe/", [[b"the last one"]]) == []
    (defect,) = judged(store, "probe/", [[b"the first one"]])
    assert "is not that of the writer" in defect


def test_a_store_that_cannot_be_reached_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = probe((tmp_path / "file").as_uri())
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
    monkeypatch.delenv("EVOLUTION_STORE", raising=False)
    assert "set EVOLUTION_STORE" in probe().stderr
