"""Built-in prompts follow the document's language; templates are filled in once."""

import pytest

from evolution_trainer.language import language
from evolution_trainer.prompts import answer_prompt, question_prompt, render


@pytest.mark.parametrize("tag", ["en", "zh", "ja", "ru"])
def test_the_built_in_prompts_put_the_document_first_and_hold_what_they_need(tag: str) -> None:
    assert question_prompt(tag).startswith("{document}\n")
    assert answer_prompt(tag).startswith("{document}\n")
    assert answer_prompt(tag).count("{question}") == 1


def test_a_chinese_document_gets_chinese_prompts_and_others_are_asked_to_use_their_own_language() -> None:
    assert language(question_prompt("zh")) == language(answer_prompt("zh")) == "zh"
    assert "language of the text" in question_prompt("ru")
    assert "language of the text" in answer_prompt("ru")


def test_placeholders_in_a_document_or_question_stay_text() -> None:
    template = "{document}|{question}|{other}{"
    assert render(template, document="{question}", question="{document}") == "{question}|{document}|{other}{"


def test_without_a_question_its_placeholder_stays() -> None:
    assert render("{document} {question}", document="d") == "d {question}"
