import pytest

from evolution_trainer.selection import Scores, select, select_as_reference

SCORES: Scores = [0.5, None, 0.9, 0.7, 0.9, 1.4, 0.1, None, 0.3, 0.6]
BY_SCORE = ("Hard", "Easy", "Even")


@pytest.mark.parametrize("strategy", [*BY_SCORE, "Random"])
@pytest.mark.parametrize("size", [0, 1, 2, 3, 5, 7, 8, 100])
def test_exactly_the_wanted_number_is_chosen_or_all_there_are(strategy: str, size: int) -> None:
    candidates = len(SCORES) if strategy == "Random" else sum(score is not None for score in SCORES)
    chosen = select(strategy, SCORES, size, seed=1)  # type: ignore[arg-type]
    assert len(chosen) == len(set(chosen)) == min(size, candidates)


@pytest.mark.parametrize("strategy", BY_SCORE)
def test_pairs_without_a_score_are_never_chosen_by_score(strategy: str) -> None:
    assert not {1, 7} & set(select(strategy, SCORES, 100, seed=1))  # type: ignore[arg-type]


@pytest.mark.parametrize("strategy", BY_SCORE)
def test_pairs_above_the_limit_are_left_out(strategy: str) -> None:
    assert 5 not in select(strategy, SCORES, 100, seed=1, max_ifd=1.0)  # type: ignore[arg-type]
    assert 5 in select(strategy, SCORES, 100, seed=1)  # type: ignore[arg-type]


def test_hard_takes_the_highest_scores_and_easy_the_lowest() -> None:
    assert select("Hard", SCORES, 3, seed=1) == [5, 2, 4]
    assert select("Easy", SCORES, 3, seed=1) == [0, 8, 6]


def test_ties_keep_their_order() -> None:
    assert select("Hard", [0.5] * 6, 4, seed=1) == [0, 1, 2, 3]
    assert select("Easy", [0.5] * 6, 4, seed=1) == [2, 3, 4, 5]


def test_even_walks_the_ranks_in_equal_steps() -> None:
    scores = [i / 100 for i in range(100)]
    ranks = [99 - i for i in select("Even", scores, 10, seed=1)]
    assert ranks == [5, 15, 25, 35, 45, 55, 65, 75, 85, 95]


def test_random_depends_on_the_seed_alone() -> None:
    assert select("Random", SCORES, 5, seed=3) == select("Random", list(SCORES), 5, seed=3)
    assert len({tuple(select("Random", SCORES, 5, seed=seed)) for seed in range(20)}) > 10


def test_all_takes_every_pair_whatever_the_size_and_none_takes_none() -> None:
    assert select("All", SCORES, 2, seed=1) == list(range(10))
    assert select("None", SCORES, 100, seed=1) == []


def test_no_history_gives_no_selection() -> None:
    assert [select(s, [], 5, seed=1) for s in ("None", "Random", "All", "Hard", "Easy", "Even")] == [[]] * 6  # type: ignore[arg-type]


def test_as_the_reference_a_missing_score_counts_as_one_and_even_overshoots() -> None:
    assert select_as_reference("Hard", SCORES, 3, seed=1) == [5, 1, 7]
    assert len(select_as_reference("Even", [0.1 * i for i in range(9)], 5, seed=1)) == 9
