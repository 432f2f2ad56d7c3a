"""The tag of a text's script, and its words."""

import pytest

from evolution_trainer.language import language, words


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("The pump runs at 5 bar.", "en"),
        ("Die Pumpe fördert Öl.", "en"),
        ("", "en"),
        ("12 %", "en"),
        ("GLOBALTIMEOUT查询的全局超时时长(秒)参数可选性:任选", "zh"),
        ("配置 AMF 与 SMF 之间的 N11 接口", "zh"),
        ("ポンプの圧力は5バールです。", "ja"),
        ("펌프 압력은 5바입니다.", "ko"),
        ("Давление насоса 5 бар", "ru"),
        ("ضغط المضخة 5 بار", "ar"),
        ("ความดันปั๊ม", "th"),
        ("Η πίεση της αντλίας", "el"),
    ],
)
def test_the_script_of_most_words_decides(text: str, tag: str) -> None:
    assert language(text) == tag


def test_a_character_of_a_script_without_blanks_is_a_word() -> None:
    assert words("配置 AMF-1，ok") == ["配", "置", "AMF", "1", "ok"]
