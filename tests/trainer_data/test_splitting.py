"""Long documents are split under the limit at the best border there is, and nothing gets lost."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trainer_data.preparing import MODEL
from transformers import AutoTokenizer

from evolution_trainer.splitting import split

TOKENIZER = AutoTokenizer.from_pretrained(MODEL)


def tokens(text: str) -> int:
    return len(TOKENIZER(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])


def chunks(text: str, limit: int) -> list[str]:
    return list(split(text, limit, tokens))


def without_blanks(text: str) -> str:
    return "".join(text.split())


TEXTS = st.lists(
    st.sampled_from(
        ["The pump runs. ", "Why?", "\n", "\n\n", "  ", "单板故障。", "如何复位？", "e\u0301" * 9, "x" * 50, "👩‍🔧"]
    )
    | st.text(max_size=30)
).map("".join)


@settings(max_examples=200, deadline=None)
@given(text=TEXTS, limit=st.integers(16, 60))
def test_every_chunk_fits_and_together_they_are_the_text(text: str, limit: int) -> None:
    found = chunks(text, limit)
    assert all(tokens(chunk) <= limit for chunk in found)
    assert without_blanks("".join(found)) == without_blanks(text)


def test_a_text_that_fits_stays_whole() -> None:
    assert chunks("One.\n\nTwo.", 16) == ["One.\n\nTwo."]


def test_paragraphs_that_fit_are_not_divided() -> None:
    paragraphs = [f"Paragraph {n} about the pump. It runs." for n in range(6)]
    limit = tokens("\n\n".join(paragraphs[:2])) + 3
    found = chunks("\n\n".join(paragraphs), limit)
    assert found == ["\n\n".join(paragraphs[n : n + 2]) for n in (0, 2, 4)]


@pytest.mark.parametrize("sentences", [["The pump runs at five bar. "] * 8, ["单板发生故障时请复位。"] * 8])
def test_a_long_paragraph_is_divided_between_sentences(sentences: list[str]) -> None:
    found = chunks("".join(sentences), tokens(sentences[0]) * 2 + 4)
    assert len(found) > 1
    assert all(chunk.endswith((".", "。")) for chunk in found)


def test_a_long_sentence_is_divided_between_words() -> None:
    text = " ".join(f"word{n}" for n in range(60))
    assert [word for chunk in chunks(text, 20) for word in chunk.split()] == text.split()


def test_an_accent_stays_with_its_letter_even_where_there_is_no_border() -> None:
    assert not any(chunk.startswith("\u0301") for chunk in chunks("e\u0301" * 200, 16))


def test_a_text_without_any_border_is_cut_in_reasonable_time() -> None:
    found = chunks("x" * 20_000, 64)
    assert "".join(found) == "x" * 20_000
