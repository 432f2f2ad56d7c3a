"""Which two answers count as one."""

import pytest

from evolution_trainer.candidates import same_answer


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Green.", "green", True),
        ("12 kg", "21 kg", False),
        ("It stands in the hall of Lund.", "It stands in the hall in Lund.", True),
        ("It stands in the hall of Lund.", "It stands in the hall of Oslo.", False),
        ("The highest pressure of the pump is 1,200 bar.", "The highest pressure of the pump is 1200 bar", True),
        ("The highest pressure of the pump is 80 bar.", "The highest pressure of the pump is 90 bar.", False),
        ("重启设备后清除告警记录", "重启设备后清除告警记录。", True),
        ("重启设备后清除全部告警记录", "重启设备后再清除告警记录", True),
        ("温度上限是65摄氏度", "温度上限是45摄氏度", False),
        ("no idea", "", False),
    ],
)
def test_answers_are_the_same_if_they_are_alike_and_name_the_same_things(one: str, other: str, same: bool) -> None:
    assert same_answer(one, other, 0.8) is same
    assert same_answer(other, one, 0.8) is same
