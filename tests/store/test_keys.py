"""Keys are where the documentation says, and only digests and run names make keys."""

import pytest

from evolution.store import keys

DIGEST = "0a" * 32


def test_everything_has_its_place() -> None:
    assert keys.blob(DIGEST) == f"blobs/sha256/0a/{DIGEST}"
    assert keys.manifest(DIGEST) == f"stages/{DIGEST}.json"
    assert keys.progress("telecom-0123abcd", DIGEST) == f"runs/telecom-0123abcd/progress/{DIGEST}.json"
    assert keys.progress("telecom-0123abcd", DIGEST, 2) == f"runs/telecom-0123abcd/progress/{DIGEST}-2.json"
    assert keys.part(DIGEST, 2, 4) == f"parts/{DIGEST}/2-of-4.json"
    assert keys.checkpoints("telecom-0123abcd", DIGEST) == f"runs/telecom-0123abcd/checkpoints/{DIGEST}/"
    assert keys.history("telecom-0123abcd") == "runs/telecom-0123abcd/history.json"


def test_keys_are_read_back() -> None:
    assert keys.digest_of(keys.blob(DIGEST)) == DIGEST
    assert keys.fingerprint_of(keys.manifest(DIGEST)) == DIGEST
    assert keys.stage_of_part(keys.part(DIGEST, 2, 4)) == DIGEST
    for other in (f"blobs/sha256/0b/{DIGEST}", f"stages/{DIGEST}", "stages/x.json", keys.history("a"), ""):
        assert keys.digest_of(other) is None
        assert keys.fingerprint_of(other) is None
        assert keys.stage_of_part(other) is None


@pytest.mark.parametrize("run", ["", "..", "a/b", "A", "-a", "a-"])
def test_a_run_cannot_write_outside_its_place(run: str) -> None:
    with pytest.raises(ValueError, match="cannot name a run"):
        keys.history(run)
