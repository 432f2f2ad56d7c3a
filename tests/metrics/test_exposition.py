import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text
from shown_run import shown_run

from evolution.metrics.exposition import OF_RUNS, RunCollector, RunMetrics, page_of_runs, run_text
from evolution.metrics.run_samples import Sample, run_samples

AWKWARD = ("plain", 'a"quote', "back\\slash", "two\nlines", "\\n", "é 世界", "", '",x="', "{}", " ")
NUMBERS = (0, 1, -1, 0.1, 1e-9, 123456789.125, 1e15, 2**53, 1e300, -0.0, math.inf, -math.inf)


def metrics_of(name: str, namespace: str = "team-a") -> RunMetrics:
    return RunMetrics(namespace, name, tuple(run_samples(shown_run(name, namespace))))


def assert_both_say_the_same(runs: Sequence[RunMetrics]) -> None:
    """The fast text, and what prometheus_client writes of the same runs."""
    registry = CollectorRegistry()
    registry.register(RunCollector(lambda: runs))
    texts = [run_text(run) for run in runs]
    assert [*read_text(page_of_runs(texts))] == [*read_text(generate_latest(registry).decode())]
    mine = page_of_runs(texts, openmetrics=True) + "# EOF\n"
    assert [*read_openmetrics(mine)] == [*read_openmetrics(generate_openmetrics(registry).decode())]


def test_the_text_says_what_prometheus_client_says_of_the_same_runs() -> None:
    assert_both_say_the_same([metrics_of("one"), metrics_of("two"), metrics_of("one", "team-b")])


def test_no_run_has_no_text() -> None:
    assert_both_say_the_same([])
    assert page_of_runs([]) == ""


@pytest.mark.parametrize("value", AWKWARD)
def test_awkward_labels_are_written_as_prometheus_client_writes_them(value: str) -> None:
    info = next(family for family in OF_RUNS if family.name == "evolution_run_info")
    labels = (value, f"x{value}", f"{value}x", value * 2)
    assert_both_say_the_same([RunMetrics(value or "n", value or "r", (Sample(info, labels, 1),))])


@given(st.lists(st.text(st.characters(blacklist_categories=["Cs"]), max_size=20), min_size=6, max_size=6))
def test_any_labels_are_written_as_prometheus_client_writes_them(texts: list[str]) -> None:
    info = next(family for family in OF_RUNS if family.name == "evolution_run_info")
    namespace, run, *labels = (text.replace("\r", "") for text in texts)
    assert_both_say_the_same([RunMetrics(namespace, run, (Sample(info, tuple(labels), 1),))])


@pytest.mark.parametrize("value", NUMBERS)
def test_numbers_are_written_as_prometheus_client_writes_them(value: float) -> None:
    family = next(family for family in OF_RUNS if family.name == "evolution_round_train_loss")
    assert_both_say_the_same([RunMetrics("n", "r", (Sample(family, (), value),))])


def test_each_metric_has_one_head_and_its_series_stand_together() -> None:
    page = page_of_runs([run_text(metrics_of("one")), run_text(metrics_of("two"))])
    names = [line.split()[2] for line in page.splitlines() if line.startswith("# TYPE")]
    assert len(names) == len(set(names))
    order = [line.split("{")[0] for line in page.splitlines() if not line.startswith("#")]
    assert [name for i, name in enumerate(order) if i == 0 or order[i - 1] != name] == names


def test_one_run_tells_no_more_series_than_the_documentation_says() -> None:
    assert len(metrics_of("one").samples) <= 140
