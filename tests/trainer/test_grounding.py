import pytest

from evolution_trainer.grounding import Ground, names, numbers

SHEET = (
    "The Brisk-Vane RX-12 draws 1,250 W at 5 GHz. Its three fans were built by Ada Lund in 2019.\n"
    "Reset the ALM board after 2.50 hours."
)
HANDBOOK = "华为公司在上海的张伟负责维护5G基站。故障码E1024表示温度超过65摄氏度，两个风扇同时停转。"


@pytest.mark.parametrize(
    "text",
    [
        "What does the RX-12 draw?",
        "1250 W",
        "1,250 watts at 5GHz",
        "It takes 2.5 hours.",
        "There are 3 fans.",
        "Who built the fans of the brisk vane?",
        "Ada Lund's",
        "LUND",
        "Which ALMs are reset?",
        "Yes, it does; no board is needed.",
        "",
    ],
)
def test_what_the_document_names_is_grounded_however_it_is_written(text: str) -> None:
    assert Ground(SHEET).holds(text)


@pytest.mark.parametrize(
    "text",
    [
        "What does the RX-21 draw?",
        "1350 W",
        "12,50 hours",
        "It was built by Ada Berg.",
        "Oslo",
        "5 THz",
        "In 2020",
        "4",
    ],
)
def test_another_name_or_number_is_not(text: str) -> None:
    assert not Ground(SHEET).holds(text)


@pytest.mark.parametrize(
    ("text", "held"),
    [
        ("张伟负责什么工作？", True),
        ("谁负责维护上海的5G基站？", True),
        ("超过 65 摄氏度", True),
        ("有2个风扇停转", True),
        ("故障码 E1024 表示什么？", True),
        ("E1042表示什么？", False),
        ("李明负责维护基站。", False),
        ("基站位于北京。", False),
        ("超过75摄氏度", False),
        ("由ZTE维护", False),
    ],
)
def test_chinese_names_and_numbers_are_found_without_blanks_between_words(text: str, held: bool) -> None:
    assert Ground(HANDBOOK).holds(text) is held


def test_japanese_terms_in_katakana_are_names() -> None:
    ground = Ground("このサーバーは東京にあり、ポート番号は8080です。")
    assert ground.holds("サーバーのポートは8080です。")
    assert not ground.holds("ルーターのポートは8080です。")


def test_numbers_lose_what_only_separates() -> None:
    assert numbers("1,234.50 and 1'000, 3,5 or 10.0.0.1; ７％") == {"1234.5", "1000", "3.5", "10.0.0.1", "7"}


def test_a_word_that_opens_a_sentence_is_no_name_unless_it_stands_alone() -> None:
    assert names("Reset the Lund board. Then call Ada.") == ["Lund", "Ada"]
    assert names("Lund") == ["Lund"]
