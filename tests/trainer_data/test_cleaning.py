"""What a model wrote becomes a question or an answer, or is rejected with a reason."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolution_trainer.clean import Cleaned, Rejected, clean_answer, clean_question, question_key

DOCUMENT = "The Muldork pump runs at 5 bar and is oiled every 300 hours with the grey oil from room 83. " * 2


def question(raw: str, document: str = DOCUMENT) -> Cleaned | Rejected:
    return clean_question(raw, finished=True, document=document)


def answer(raw: str, document: str = DOCUMENT) -> Cleaned | Rejected:
    return clean_answer(raw, finished=True, document=document)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("What is the pressure?", "What is the pressure?"),
        ("Question: What is A?", "What is A?"),
        ("**Question 1:** What is A?", "What is A?"),
        ("**Question: What is A?**", "What is A?"),
        ("Q1. What is A?", "What is A?"),
        ("问题：什么是A？", "什么是A？"),
        ("根据文档内容，提出的问题是：什么是A？", "什么是A？"),
        ("好的，以下是问题：\n问题：什么是A？", "什么是A？"),
        ("Pregunta: ¿Qué es A?", "¿Qué es A?"),
        ("Sure! Here is a question about the pump: What is A?", "What is A?"),
        ("Here is a question based on the document:\n\n1. What is A?\n2. What is B?", "What is A?"),
        ("Certainly!\nWhat is A?", "What is A?"),
        ("1. 如何导出？\n2. 如何清除？", "如何导出？"),
        ("（2）如何导出？", "如何导出？"),
        ("- What is A?", "What is A?"),
        ("## What is A?", "What is A?"),
        ('"What is A?"', "What is A?"),
        ('"What is A?" is my question.', "What is A?"),
        ("“什么是A？”", "什么是A？"),
        ('**"What is A?"**', "What is A?"),
        ("```What is A?```", "What is A?"),
        ("What is A? How is it changed?", "What is A?"),
        ("什么是A?它的作用是什么？", "什么是A?"),
        ("What is A?<|im_end|>", "What is A?"),
        ("<think>What? Hm.</think>\n\nWhat is A?", "What is A?"),
        ("ما هو الضغط؟", "ما هو الضغط؟"),
        ("What is the port", "What is the port?"),
        ("系统如何升级", "系统如何升级？"),
        ("ポートは何ですか。", "ポートは何ですか？"),
        ("ฉันจะรีเซ็ตได้อย่างไร", "ฉันจะรีเซ็ตได้อย่างไร"),
    ],
)
def test_decoration_goes_and_the_first_question_with_its_own_mark_stays(raw: str, text: str) -> None:
    assert question(raw) == Cleaned(text)


@pytest.mark.parametrize(
    "text",
    [
        "“5G”与“4G”相比有何提升？",
        "**5G**是什么？",
        "*#06# 的作用是什么？",
        "5、6号端口的区别是什么？",
        "一、二层交换机有什么区别？",
        "3.5 GHz 是什么频段？",
        "用户反馈的问题：无法登录，如何处理？",
        "根据5G标准：UPF的作用是什么？",
        '"Alarm" and "fault": what differs?',
        "Given x = 5.\nWhat is x?",
        'What does "?" match?',
        "如何访问 http://10.0.0.1/a?x=1&y=2 这个地址？",
        "What does https://host/path?q=1 return?",
        "What does /api/items?id=3 return?",
        "Where is http://host/a?",
    ],
)
def test_a_well_formed_question_stays_as_it_is(text: str) -> None:
    assert question(text) == Cleaned(text)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ("", "Empty"),
        (" \n", "Empty"),
        ("???", "Empty"),
        ("**", "Empty"),
        ("问题：", "Empty"),
        ("<think>What is", "Empty"),
        ("Describe the upgrade steps.", "NotAQuestion"),
        ("请说明告警的处理流程。", "NotAQuestion"),
        (f"{DOCUMENT.strip()} Right?", "CopiesDocument"),
    ],
)
def test_what_is_no_question_of_its_own_is_rejected_with_the_reason(raw: str, reason: str) -> None:
    assert question(raw) == Rejected(reason)  # type: ignore[arg-type]


def test_what_the_length_limit_cut_is_rejected() -> None:
    assert clean_question("What is A?", finished=False, document="") == Rejected("Truncated")
    assert clean_answer("5 bar", finished=False, document="") == Rejected("Truncated")


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("5 bar", "5 bar"),
        ("Answer: 5 bar", "5 bar"),
        ("**Answer:** 5 bar", "5 bar"),
        ("答案：5 bar", "5 bar"),
        ("The answer is: 5 bar", "5 bar"),
        ('"5 bar"', "5 bar"),
        ("**5 bar**", "5 bar"),
        ("<think>\n\n</think>\n\n5 bar", "5 bar"),
        ("“5”和“6”", "“5”和“6”"),
        ("1. Stop.\n2. Oil.", "1. Stop.\n2. Oil."),
        ("-5", "-5"),
        ("A5 is on", "A5 is on"),
        ("😀", "😀"),
        ("It is oiled every 300 hours with the grey oil from room 83.",) * 2,
    ],
)
def test_an_answer_loses_its_label_and_quotes_and_nothing_else(raw: str, text: str) -> None:
    assert answer(raw) == Cleaned(text)


@pytest.mark.parametrize(
    ("raw", "reason"), [("", "Empty"), ("...", "Empty"), ("答：", "Empty"), (DOCUMENT, "CopiesDocument")]
)
def test_what_is_no_answer_of_its_own_is_rejected_with_the_reason(raw: str, reason: str) -> None:
    assert answer(raw) == Rejected(reason)  # type: ignore[arg-type]


def test_a_document_of_one_sentence_may_be_the_answer() -> None:
    assert answer("The pump runs at 5 bar.", document="The pump runs at 5 bar.") == Cleaned("The pump runs at 5 bar.")


@given(st.text())
def test_any_text_is_rejected_or_leaves_a_text_without_blanks_around_it(raw: str) -> None:
    for clean in (question, answer):
        cleaned = clean(raw)
        if isinstance(cleaned, Cleaned):
            assert cleaned.text == cleaned.text.strip() != ""


def test_questions_that_differ_in_case_width_and_punctuation_have_the_same_key() -> None:
    assert question_key("What is ＡＭＦ ?") == question_key("what is “AMF”？")
    assert question_key("What is C?") != question_key("What is C++?")


def test_reference_rules_leave_answers_alone() -> None:
    assert clean_answer(" 答：", finished=False, document="", rules="Reference") == Cleaned(" 答：")
