from pathlib import Path

import numpy as np
import pytest
from small_run import QUICKSTART
from stages import GENERATE, Bench, Done

from evolution_trainer import generate
from evolution_trainer.engine import Reply
from evolution_trainer.failure import StageFailed
from evolution_trainer.lengths import Lengths
from evolution_trainer.model import ModelSession
from evolution_trainer.transformers_engine import TransformersEngine


@pytest.fixture
def demo(tmp_path: Path, demo_session: ModelSession) -> Bench:
    return Bench(tmp_path, demo_session)


def documents(count: int) -> list[dict[str, str]]:
    files = sorted((QUICKSTART / "documents").iterdir())[:count]
    return [
        {"id": f"{n:016x}", "text": file.read_text(encoding="utf-8").strip(), "language": "en"}
        for n, file in enumerate(files)
    ]


def test_a_model_that_can_asks_and_answers_about_every_document(demo: Bench) -> None:
    done = demo.do(generate, GENERATE, documents=demo.put(documents(10)))
    pairs, rejects = done.rows("pairs"), done.rows("rejects")
    assert len(pairs) + len(rejects) == 20
    assert len(pairs) >= 15
    texts = {document["id"]: document["text"] for document in documents(10)}
    for pair in pairs:
        assert pair["id"].startswith(pair["document"] + "-q")
        assert pair["question"].endswith("?")
    assert sum(pair["answer"] in texts[pair["document"]] for pair in pairs) > 0.9 * len(pairs)


def test_every_question_is_kept_or_counted_with_a_reason(demo: Bench) -> None:
    done = demo.do(generate, {**GENERATE, "questionsPerDocument": 6}, documents=demo.put(documents(5)))
    counts = done.metrics["rejects"]
    assert sum(counts["question"].values()) + done.metrics["questions"] == 30
    assert sum(counts["answer"].values()) + done.metrics["pairs"] == done.metrics["questions"]
    assert counts["question"]["Duplicate"] > 0
    assert len(done.rows("rejects")) == sum(sum(kind.values()) for kind in counts.values())
    assert len(done.rows("pairs")) == done.metrics["pairs"] == done.result.outputs["pairs"].count


@pytest.mark.parametrize("shards", [1, 2, 3])
def test_documents_with_pairs_and_lengths_of_what_is_kept_are_counted(
    demo: Bench, monkeypatch: pytest.MonkeyPatch, shards: int
) -> None:
    answers = {"alpha": "One.", "beta": "One two three four five six seven.", "gamma": ""}

    def scripted(_: TransformersEngine, prompts: list[list[int]], *_rest: object, **_named: object) -> list[Reply]:
        texts = [str(demo.session.tokenizer.decode(ids)) for ids in prompts]
        names = [next(name for name in answers if name in text) for text in texts]
        return [
            Reply(answers[name] if "from this document" in text else f"What is {name}{' again' * (n % 2)}?", True)
            for n, (name, text) in enumerate(zip(names, texts, strict=True))
        ]

    monkeypatch.setattr(TransformersEngine, "generate", scripted)
    given = demo.put({"id": f"{n:016x}", "text": name, "language": "en"} for n, name in enumerate(answers))
    metrics = shared(demo, shards, given).metrics
    tokens = demo.session.chat.plain
    short, long = len(tokens("One.")), len(tokens(answers["beta"]))
    asked = [len(tokens(f"What is {name}{again}?")) for name in ("alpha", "beta") for again in ("", " again")]
    assert metrics["pairs"] == 4
    assert metrics["coverage"] == {"documents": 3, "covered": 2}
    assert metrics["answerTokens"] == {"0.1": short, "0.5": (short + long) / 2, "0.9": long}
    assert metrics["questionTokens"]["0.5"] == np.median(asked)


def test_lengths_have_the_quantiles_that_numpy_finds() -> None:
    dice = np.random.default_rng(3)
    for count in (1, 2, 7, 1000):
        lengths, counted = dice.integers(1, 60, count), Lengths()
        for length in lengths.tolist():
            counted.add(length)
        expected = np.quantile(lengths, [0.1, 0.5, 0.9])
        assert list(counted.quantiles().values()) == pytest.approx(expected, abs=0.051)
    assert Lengths().quantiles() == {}


def test_no_two_pairs_are_equal_and_no_question_is_asked_twice_about_a_document(demo: Bench) -> None:
    parameters = {**GENERATE, "questionsPerDocument": 8}
    pairs = demo.do(generate, parameters, documents=demo.put(documents(4))).rows("pairs")
    assert len({(pair["question"], pair["answer"]) for pair in pairs}) == len(pairs)
    assert len({(pair["document"], pair["question"].casefold()) for pair in pairs}) == len(pairs)


def test_the_same_stage_gives_the_same_bytes_whatever_the_batches(demo: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    given = demo.put(documents(8))
    first = demo.do(generate, GENERATE, documents=given)
    monkeypatch.setattr("evolution_trainer.transformers_engine.TOKEN_BUDGET", {"cpu": 700})
    monkeypatch.setattr("evolution_trainer.writer.WINDOW", 5)
    second = demo.do(generate, GENERATE, documents=given)
    assert first.digest("pairs") == second.digest("pairs")
    assert first.digest("rejects") == second.digest("rejects")


def test_a_documents_pairs_do_not_depend_on_the_other_documents(demo: Bench) -> None:
    together = demo.do(generate, GENERATE, documents=demo.put(documents(6))).rows("pairs")
    alone = demo.do(generate, GENERATE, documents=demo.put(documents(6)[3:4])).rows("pairs")
    assert alone == [pair for pair in together if pair["document"] == documents(6)[3]["id"]]


def test_another_round_asks_other_questions(demo: Bench) -> None:
    given = demo.put(documents(6))
    first = demo.do(generate, GENERATE, documents=given)
    second = demo.do(generate, {**GENERATE, "round": 2}, documents=given)
    assert first.digest("pairs") != second.digest("pairs")


def test_a_document_over_the_models_window_is_rejected_as_too_long_and_never_cut(demo: Bench) -> None:
    long = documents(1)[0] | {"id": "f" * 16}
    long["text"] = "\n".join([long["text"]] * 20)
    done = demo.do(generate, GENERATE, documents=demo.put([*documents(2), long]))
    assert done.metrics["rejects"]["question"]["TooLong"] == 2
    assert {row["reason"] for row in done.rows("rejects") if row["document"] == "f" * 16} == {"TooLong"}


def test_a_stage_that_kept_no_pair_fails_with_the_counts_by_reason(demo: Bench) -> None:
    with pytest.raises(StageFailed, match=r"none of the 6 questions about 3 documents.*6 Truncated") as failure:
        demo.do(generate, {**GENERATE, "maxTokens": 1}, documents=demo.put(documents(3)))
    assert failure.value.reason == "NoPairs"


def test_the_reference_rules_keep_duplicates(demo: Bench) -> None:
    parameters = {**GENERATE, "rules": "Reference", "temperature": 0.0}
    done = demo.do(generate, parameters, documents=demo.put(documents(2)))
    pairs = done.rows("pairs")
    assert len(pairs) == 4
    assert pairs[0]["question"] == pairs[1]["question"]
    default = demo.do(generate, {**GENERATE, "temperature": 0.0}, documents=demo.put(documents(2)))
    assert len(default.rows("pairs")) == 2


def test_progress_counts_questions_and_then_answers(demo: Bench) -> None:
    done = demo.do(generate, GENERATE, documents=demo.put(documents(5)))
    phases = [phase for phase, _, _ in demo.progress]
    assert phases == sorted(phases, reverse=True)
    assert [p for p in demo.progress if p[0] == "questions"][-1] == ("questions", 10, 10)
    assert demo.progress[-1] == ("answers", done.metrics["questions"], done.metrics["questions"])


def test_braces_and_control_tokens_in_a_document_stay_text(demo: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[int]] = []

    def watch(_: TransformersEngine, prompts: list[list[int]], *_rest: object, **_named: object) -> list[Reply]:
        seen.extend(prompts)
        return [Reply("What?", True)] * len(prompts)

    monkeypatch.setattr(TransformersEngine, "generate", watch)
    text = 'Set {"question": "{question}"} before <|im_end|>.'
    demo.do(generate, GENERATE, documents=demo.put([{"id": "a" * 16, "text": text, "language": "en"}]))
    eos = demo.session.tokenizer.eos_token_id
    assert all(ids.count(eos) == 1 for ids in seen)
    assert all(text in demo.session.tokenizer.decode(ids) for ids in seen)


def shared(bench: Bench, shards: int, documents: str, **changes: object) -> Done:
    """The stage done in so many parts, which are put together as another worker would."""
    parts = []
    for shard in range(shards):
        part = Done(
            generate.run_part(bench.stage({**GENERATE, **changes}, documents=documents), shard, shards), bench.artifacts
        )
        parts.append({name: bench.artifacts.put_file(output.path) for name, output in part.result.outputs.items()})
    stage = bench.stage({**GENERATE, **changes}, documents=documents)
    return Done(generate.merge(stage, [generate.fetched(stage, outputs) for outputs in parts]), bench.artifacts)


@pytest.mark.parametrize("shards", [2, 3, 7])
def test_however_many_workers_share_the_stage_its_bytes_are_the_same(demo: Bench, shards: int) -> None:
    given = demo.put([*documents(4), documents(1)[0] | {"id": "e" * 16}])  # the last one asks what the first one asks
    greedy = {"temperature": 0.0, "questionsPerDocument": 3}
    alone = demo.do(generate, {**GENERATE, **greedy}, documents=given)
    together = shared(demo, shards, given, **greedy)
    assert alone.metrics["rejects"]["answer"]["Duplicate"] > 0
    assert alone.metrics["rejects"]["question"]["Duplicate"] > 0
    assert together.metrics == alone.metrics
    for name in ("pairs", "rejects"):
        assert together.digest(name) == alone.digest(name)


def test_shares_that_keep_no_pair_are_no_failure_as_long_as_another_keeps_one(demo: Bench) -> None:
    long = documents(1)[0] | {"id": "f" * 16}
    long["text"] = "\n".join([long["text"]] * 20)
    given = demo.put([documents(1)[0], long])
    together = shared(demo, 2, given)
    assert together.digest("pairs") == demo.do(generate, GENERATE, documents=given).digest("pairs")
    with pytest.raises(StageFailed, match="none of the 4 questions about 2 documents"):
        shared(demo, 2, given, maxTokens=1)
