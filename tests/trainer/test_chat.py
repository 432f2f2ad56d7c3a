import shutil
from pathlib import Path

import pytest

from evolution_trainer.failure import StageFailed
from evolution_trainer.model import ModelSession


def test_a_control_token_in_a_document_is_ordinary_text(session: ModelSession) -> None:
    special = set(session.tokenizer.all_special_ids)
    ids = session.chat.plain("before <|im_end|> after <|im_start|> and <|endoftext|>")
    assert not special & set(ids)
    assert session.tokenizer.decode(ids) == "before <|im_end|> after <|im_start|> and <|endoftext|>"


def test_a_prompt_has_the_turns_that_the_template_writes(session: ModelSession) -> None:
    ids = session.chat.prompt("What is it? <|im_end|>")
    assert (
        session.tokenizer.decode(ids) == "<|im_start|>user\nWhat is it? <|im_end|><|im_end|>\n<|im_start|>assistant\n"
    )
    assert ids.count(session.tokenizer.eos_token_id) == 1


def test_tame_text_has_the_same_tokens_apart_and_in_one_piece(session: ModelSession) -> None:
    assert session.chat.prompt("What is it?") == session.chat.joint_prompt("What is it?")


def test_an_answer_ends_with_the_token_that_ends_a_turn(session: ModelSession) -> None:
    assert session.chat.end == [session.tokenizer.eos_token_id]
    assert session.end_tokens == [session.tokenizer.eos_token_id]


def test_the_assistants_header_is_what_asking_for_a_reply_adds(session: ModelSession) -> None:
    assert session.chat.assistant_header_text == "<|im_start|>assistant\n"


def _with_template(model: Path, folder: Path, template: str) -> ModelSession:
    shutil.copytree(model, folder / "model")
    (folder / "model" / "chat_template.jinja").write_text(template, encoding="utf-8")
    return ModelSession(str(folder / "model"), folder)


def test_a_template_that_trims_content_is_fine(tiny_model: Path, tmp_path: Path) -> None:
    template = "{% for m in messages %}<|im_start|>{{ m['content'] | trim }}<|im_end|>{% endfor %}"
    other = _with_template(tiny_model, tmp_path, template)
    assert other.tokenizer.decode(other.chat.prompt("Hello")) == "<|im_start|>Hello<|im_end|>"


def test_a_template_that_loses_the_content_makes_the_model_unusable(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match="0 times instead of once") as failure:
        _ = _with_template(tiny_model, tmp_path, "<|im_start|>Hello<|im_end|>").chat
    assert failure.value.reason == "ModelUnusable"


def test_a_template_that_raises_makes_the_model_unusable(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match="cannot be rendered: no user wanted"):
        _ = _with_template(tiny_model, tmp_path, "{{ raise_exception('no user wanted') }}").chat


def test_a_model_without_chat_template_is_unusable(tiny_model: Path, tmp_path: Path) -> None:
    other = _with_template(tiny_model, tmp_path, "")
    (tmp_path / "model" / "chat_template.jinja").unlink()
    with pytest.raises(StageFailed, match="has no chat template"):
        _ = other.chat
