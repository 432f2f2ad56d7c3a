"""Built-in prompts for questions and answers, and the filling in of templates.

The document comes first in both, so that an engine that caches prefixes reads it once.
"""

import re

_PLACEHOLDER = re.compile(r"\{(document|question)\}")

_QUESTION_EN = """\
{document}

The text above is reference material. Ask one question that it answers.
- Ask about something specific: a fact, a value, a cause, a step or a condition that the text states.
- Name what the question is about, so that somebody who has never seen the text understands it.
- One question only, short, in your own words, without mentioning "the text" or "the document".
- Write in the language of the text.
Reply with the question alone."""

_ANSWER_EN = """\
{document}

The text above is reference material. Answer this question from it:
{question}

- Say what the text says about it, exactly and briefly; keep names, numbers and units as they are.
- The answer is read without the text: do not mention "the text" or "the document", and leave nothing to look up.
- Write in the language of the text.
Reply with the answer alone."""

_QUESTION_ZH = """\
{document}

以上是一份参考资料。请根据其中的内容提出一个问题，答案要能在资料中找到。
- 针对资料中具体写明的内容提问，例如事实、数值、原因、步骤或条件。
- 写明所问对象的名称，让没有读过这份资料的人也能看懂。
- 只提一个简短的问题，用自己的话表述，不要出现“资料”“文档”“上文”等字样。
请直接写出这个问题，不要写别的内容。"""

_ANSWER_ZH = """\
{document}

以上是一份参考资料。请根据其中的内容回答下面的问题：
{question}

- 准确、简洁地写出资料中的相关内容，名称、数值和单位保持原样。
- 读者看不到这份资料：不要出现“资料”“文档”“上文”等字样，也不要让读者再去查阅。
请直接写出答案，不要写别的内容。"""


def question_prompt(language: str) -> str:
    """Template with {document} that asks for one question; `language` is a tag of `evolution_trainer.language`."""
    return _QUESTION_ZH if language == "zh" else _QUESTION_EN


def answer_prompt(language: str) -> str:
    """Template with {document} and {question} that asks for the answer."""
    return _ANSWER_ZH if language == "zh" else _ANSWER_EN


def render(template: str, *, document: str, question: str | None = None) -> str:
    """`template` with its placeholders filled in, in one pass: what a document or question contains stays text.

    Without a `question` its placeholder stays as it is; so do all other braces.
    """
    values = {"document": document, "question": question}

    def fill(placeholder: re.Match[str]) -> str:
        value = values[placeholder[1]]
        return placeholder[0] if value is None else value

    return _PLACEHOLDER.sub(fill, template)
