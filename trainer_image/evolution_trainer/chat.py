"""Token ids in the model's own chat format, with the text of users and documents as plain text.

The chat template is rendered once around a marker. What it writes before and after the content is tokenised as the
template means it, control tokens included; the content is tokenised apart, where a control token spelled out in a
document (`<|im_end|>`) is ordinary text and cannot end a turn.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from evolution_trainer.failure import StageFailed

_MARKER = "CONTENTGOESHERE"
_REPLY = "REPLYGOESHERE"


class ChatFormat:
    """How one model's tokenizer writes a conversation of one question and one answer.

    Raises:
        StageFailed: ModelUnusable, if there is no chat template or it does not write the content once, as it is.
    """

    def __init__(self, tokenizer: Any, name: str) -> None:
        self._tokenizer = tokenizer
        self._name = name
        if not tokenizer.chat_template:
            raise StageFailed(
                "ModelUnusable",
                f"{name}: the model has no chat template (chat_template.jinja, or chat_template in "
                "tokenizer_config.json); use an instruction-tuned model, or add its template to the folder",
            )
        self._head, self._tail = self._around(self._render(_MARKER), _MARKER)

    @cached_property
    def head(self) -> list[int]:
        """What comes before the question: system text and the user's header."""
        return self._control(self._head)

    @cached_property
    def tail(self) -> list[int]:
        """What comes between question and answer: the end of the user's turn and the assistant's header."""
        return self._control(self._tail)

    @cached_property
    def end(self) -> list[int]:
        """What ends an answer: up to the first control token after it."""
        conversation = [{"role": "user", "content": _MARKER}, {"role": "assistant", "content": _REPLY}]
        _, after = self._around(self._template(conversation), _REPLY)
        ids = self._control(after)
        special = set(self._tokenizer.all_special_ids)
        for position, token in enumerate(ids):
            if token in special:
                return ids[: position + 1]
        if self._tokenizer.eos_token_id is None:
            raise StageFailed(
                "ModelUnusable",
                f"{self._name}: neither the chat template nor the tokenizer says how an answer ends; set eos_token "
                "in tokenizer_config.json",
            )
        return [self._tokenizer.eos_token_id]

    @cached_property
    def assistant_header(self) -> list[int]:
        """The assistant's header alone, from its first control token after the end of the user's turn."""
        return self._control(self.assistant_header_text)

    @cached_property
    def assistant_header_text(self) -> str:
        """Text of the assistant's header: what asking for a reply adds to a conversation."""
        conversation = [{"role": "user", "content": _MARKER}]
        asked, unasked = self._render(_MARKER), self._template(conversation)
        return asked.removeprefix(unasked) if asked.startswith(unasked) and asked != unasked else self._tail

    def prompt(self, content: str) -> list[int]:
        """A conversation in which the user has said `content` and the assistant is about to speak."""
        return [*self.head, *self.plain(content), *self.tail]

    def plain(self, text: str) -> list[int]:
        """`text` without any meaning of control tokens in it."""
        return self.plain_all([text])[0]

    def plain_all(self, texts: Sequence[str]) -> list[list[int]]:
        """`plain` of each of them, in one call."""
        return self._ids(texts, split_special_tokens=True)

    def joint_prompt(self, content: str) -> list[int]:
        """`prompt` tokenised in one piece, control tokens in `content` included, as the published code does."""
        return self.joint(self._render(content))

    def joint(self, text: str) -> list[int]:
        """`text` in one piece, control tokens included."""
        return self._control(text)

    def joint_all(self, texts: Sequence[str]) -> list[list[int]]:
        """`joint` of each of them, in one call."""
        return self._ids(texts)

    def _control(self, text: str) -> list[int]:
        return self._ids([text])[0]

    def _ids(self, texts: Sequence[str], **how: bool) -> list[list[int]]:
        if not texts:
            return []
        ids: list[list[int]] = self._tokenizer(list(texts), add_special_tokens=False, **how)["input_ids"]
        return ids

    def _render(self, content: str) -> str:
        return self._template([{"role": "user", "content": content}], add_generation_prompt=True)

    def render_prompt(self, content: str) -> str:
        """Text of the prompt, as the template writes it."""
        return self._render(content)

    def _template(self, conversation: list[dict[str, str]], *, add_generation_prompt: bool = False) -> str:
        try:
            text: str = self._tokenizer.apply_chat_template(
                conversation, tokenize=False, add_generation_prompt=add_generation_prompt
            )
        except Exception as error:  # any template error: the template is the model's code
            raise StageFailed(
                "ModelUnusable", f"{self._name}: the chat template cannot be rendered: {error}"
            ) from error
        return text

    def _around(self, text: str, marker: str) -> tuple[str, str]:
        if text.count(marker) != 1:
            raise StageFailed(
                "ModelUnusable",
                f"{self._name}: the chat template writes a message {text.count(marker)} times instead of once",
            )
        before, _, after = text.partition(marker)
        return before, after
