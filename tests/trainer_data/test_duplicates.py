"""Duplicates are kept once; documents that differ in what they say are all kept."""

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evolution_trainer.duplicates import Chunks, comparable_words

LONG = " ".join(f"word{n} is number {n}." for n in range(100))


def kept(folder: Path, texts: Sequence[str], *, unique: bool = True) -> list[str]:
    (folder / "chunks").unlink(missing_ok=True)
    with Chunks(folder / "chunks", unique=unique) as chunks:
        for n, text in enumerate(texts):
            chunks.add(text, f"file{n}")
        if unique:
            list(chunks.remove_near_duplicates())
            return [chunk.text for chunk in chunks.by_id()]
        return [chunk.id for chunk in chunks.in_order()]


def test_an_exact_duplicate_is_kept_once_with_both_sources(tmp_path: Path) -> None:
    with Chunks(tmp_path / "chunks", unique=True) as chunks:
        for source in ("b.txt", "a.txt"):
            chunks.add("The pump runs.", source)
        assert chunks.duplicates == 1
        (chunk,) = chunks.by_id()
        assert list(chunks.sources()) == [(chunk.id, "a.txt"), (chunk.id, "b.txt")]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("The pump runs at 5 bar.", "the PUMP  runs at 5 bar"),
        ("单板故障，请复位。", "单板故障,请复位."),
        ("**Pump**: 5 bar", "Pump - 5 bar"),
        (LONG, f"{LONG} Printed by the archive."),
        (LONG, f"Manual of the pump. {LONG}"),
    ],
)
def test_what_says_the_same_is_kept_once_and_the_fuller_text_stays(tmp_path: Path, one: str, other: str) -> None:
    (left,) = kept(tmp_path, [one, other])
    assert len(comparable_words(left)) == max(len(comparable_words(one)), len(comparable_words(other)))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("number 50.", "number 51."),
        ("word50 ", "lamp "),
        ("word50 is ", "word50 is not "),
        ("is number 50", "is number -50"),
        ("number 50.", "number 5.0."),
        ("number 50.", "number < 50."),
        ("number 50.", "number 50 %."),
        ("is number 50. word51 is number 51.", "is number 51. word51 is number 50."),
    ],
)
def test_long_documents_of_one_template_that_differ_in_one_value_are_all_kept(
    tmp_path: Path, before: str, after: str
) -> None:
    assert LONG.count(before) == 1
    assert len(kept(tmp_path, [LONG, LONG.replace(before, after)])) == 2


def test_hundreds_of_documents_of_one_template_are_all_kept(tmp_path: Path) -> None:
    texts = [f"Data sheet. Machine {n}. {LONG} Coolant: {n * 7} l." for n in range(400)]
    assert sorted(kept(tmp_path, texts)) == sorted(texts)


def test_near_duplicates_are_told_with_their_sources_and_what_was_kept(tmp_path: Path) -> None:
    with Chunks(tmp_path / "chunks", unique=True) as chunks:
        for text, source in ((LONG, "a.txt"), (LONG, "b.txt"), (f"{LONG} End.", "c.txt")):
            chunks.add(text, source)
        (removed,) = chunks.remove_near_duplicates()
        (left,) = chunks.by_id()
        assert removed.sources == ("a.txt", "b.txt")
        assert removed.kept == left.id
        assert list(chunks.sources()) == [(left.id, "c.txt")]
        assert chunks.count == 1


WORDS = st.lists(st.sampled_from(["pump", "Pump", "5", "6", "runs", ".", "not", "阀"]), min_size=1, max_size=40)


@settings(deadline=None)
@given(
    texts=st.lists(WORDS.map(" ".join) | st.sampled_from([LONG, f"{LONG} X", f"{LONG} X y"]), max_size=20),
    seed=st.integers(),
)
def test_what_is_kept_depends_on_the_texts_and_not_on_their_order(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], seed: int
) -> None:
    folder = tmp_path_factory.mktemp("chunks")
    shuffled = random.Random(seed).sample(texts, len(texts))
    left = kept(folder, texts)
    assert kept(folder, shuffled) == left
    stretches = [" ".join(comparable_words(text)) for text in left]
    assert all(any(" ".join(comparable_words(text)) in stretch for stretch in stretches) for text in texts)


def test_where_duplicates_are_kept_they_are_told_apart_by_a_suffix(tmp_path: Path) -> None:
    first, other, second, third = kept(tmp_path, ["same", "other", "same", "same"], unique=False)
    assert (second, third) == (f"{first}-2", f"{first}-3")
    assert other != first
