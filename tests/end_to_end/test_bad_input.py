"""What a person gets for a mistake: a message with place, value and remedy, an exit code, and no traceback."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from small_run import QUICKSTART, Workplace, small_workplace

BAD_SPEC, BAD_INPUT, STORE = 40, 41, 43


def told(place: Workplace, *arguments: str) -> tuple[int, str]:
    """Exit code and everything printed, in one line."""
    done = place.evolve(*(arguments or ("run",)))
    text = " ".join((done.stdout + done.stderr).split())
    assert "Traceback" not in text
    return done.returncode, text


def no_documents(place: Workplace) -> None:
    shutil.rmtree(place.folder / "documents")


def empty_folder(place: Workplace) -> None:
    for path in (place.folder / "documents").iterdir():
        path.unlink()


def only_unsupported_files(place: Workplace) -> None:
    empty_folder(place)
    (place.folder / "documents" / "scan.pdf").write_bytes(b"%PDF-1.7")


def empty_document(place: Workplace) -> None:
    (place.folder / "documents" / "empty.txt").write_text(" \n", encoding="utf-8")


def broken_line(place: Workplace) -> None:
    empty_folder(place)
    (place.folder / "documents" / "docs.jsonl").write_text('{"text": "A pump."}\n{"text": "A val\n', encoding="utf-8")


def row_without_text(place: Workplace) -> None:
    empty_folder(place)
    (place.folder / "documents" / "docs.jsonl").write_text('{"title": "A pump."}\n', encoding="utf-8")


def other_encoding(place: Workplace) -> None:
    (place.folder / "documents" / "umlaut.txt").write_bytes("Die Pumpe fördert Öl.".encode("latin-1"))


def no_questions_file(place: Workplace) -> None:
    (place.folder / "questions.jsonl").unlink()


def item_without_answer(place: Workplace) -> None:
    (place.folder / "questions.jsonl").write_text('{"question": "Where?", "answer": "Here"}\n{"question": "Who?"}\n')


def item_with_empty_question(place: Workplace) -> None:
    (place.folder / "questions.jsonl").write_text('{"question": " ", "answer": "Here"}\n')


def model_without(*names: str, **files: bytes) -> Callable[[Workplace], None]:
    def change(place: Workplace) -> None:
        model = place.folder / "model"
        shutil.copytree(QUICKSTART / "model", model)
        for name in names:
            (model / name).unlink()
        for name, data in files.items():
            (model / name.replace("__", ".")).write_bytes(data)
        place.edit({"model": {"uri": "model"}})

    return change


def no_model(place: Workplace) -> None:
    place.edit({"model": {"uri": "no-such-model"}})


def foreign_adapter(place: Workplace) -> None:
    import torch
    from safetensors.torch import save_file

    folder = place.folder / "adapter"
    folder.mkdir()
    settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    prefix = "base_model.model.model.layers.0.self_attn.q_proj"
    weights = {f"{prefix}.lora_A.weight": torch.zeros(4, 96), f"{prefix}.lora_B.weight": torch.zeros(96, 4)}
    save_file(weights, folder / "adapter_model.safetensors")
    place.edit({"model": {"adapterURI": "adapter"}})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (no_documents, ["documents", "there is no such file or folder"]),
        (empty_folder, ["no documents", "documents"]),
        (only_unsupported_files, ["no documents", ".pdf", ".txt"]),
        (empty_document, ["empty.txt", "is empty"]),
        (broken_line, ["docs.jsonl:2", "JSON"]),
        (row_without_text, ["docs.jsonl:1", "text", "documents.field"]),
        (other_encoding, ["umlaut.txt", "UTF-8"]),
        (no_questions_file, ["questions.jsonl", "there is no such file or folder"]),
        (item_without_answer, ["questions.jsonl:2", "answer"]),
        (item_with_empty_question, ["questions.jsonl:1", "question"]),
        (no_model, ["no-such-model", "there is no such file or folder"]),
        (model_without("tokenizer.json", "tokenizer_config.json"), ["model", "tokenizer"]),
        (model_without("chat_template.jinja"), ["model", "chat template"]),
        (model_without("config.json"), ["config.json"]),
        (model_without("model.safetensors"), ["model", "safetensors"]),
        (model_without("model.safetensors", pytorch_model__bin=b"pickle"), ["pytorch_model.bin", "safetensors"]),
        (model_without(model__safetensors=b"not weights"), ["model.safetensors"]),
        (foreign_adapter, ["layers.0.self_attn.q_proj", "[4, 96]", "[4, 128]"]),
    ],
)
def test_bad_input_ends_with_41_and_names_place_value_and_remedy(
    spoil: Callable[[Workplace], None], expected: list[str], tmp_path: Path
) -> None:
    place = small_workplace(tmp_path)
    spoil(place)
    code, text = told(place)
    assert code == BAD_INPUT, text
    for words in expected:
        assert words in text
    assert {m["kind"] for m in place.manifests().values()} <= {"Prepare"}
    assert not [path for path in (tmp_path / ".evolution").rglob("*") if path.is_file() and path.name.startswith(".")]


@pytest.mark.slow
def test_a_failed_run_says_why_in_its_status_until_the_input_is_mended(tmp_path: Path) -> None:
    place = small_workplace(tmp_path, {"rounds": 1, "training": {"maxSteps": 1}})
    empty_document(place)
    assert told(place)[0] == BAD_INPUT
    status = json.loads(place.evolve("status", "--json").stdout)
    stalled = next(c for c in status["conditions"] if c["type"] == "Stalled")
    assert (status["state"], stalled["status"], stalled["reason"]) == ("Failed", "True", "DocumentInvalid")
    assert "empty.txt" in stalled["message"]
    (tmp_path / "documents" / "empty.txt").unlink()
    assert json.loads(place.evolve("status", "--json").stdout)["state"] == "Running"
    assert told(place)[0] == 0
    assert json.loads(place.evolve("status", "--json").stdout)["state"] == "Complete"


@pytest.mark.slow
@pytest.mark.parametrize("spoil", [empty_document, broken_line, other_encoding])
def test_bad_documents_can_be_skipped_and_are_counted(spoil: Callable[[Workplace], None], tmp_path: Path) -> None:
    place = small_workplace(tmp_path, {"rounds": 1, "documents": {"onInvalid": "Skip"}, "training": {"maxSteps": 1}})
    spoil(place)
    if spoil is broken_line:  # the demo model is asked about a machine that it can read about
        source = min((QUICKSTART / "documents").iterdir()).read_text(encoding="utf-8")
        (tmp_path / "documents" / "more.jsonl").write_text(json.dumps({"text": source}) + "\n", encoding="utf-8")
    code, text = told(place)
    assert code == 0, text
    prepared = next(m for m in place.manifests().values() if m["parameters"].get("source") == "Documents")
    assert sum(prepared["metrics"]["rejects"].values()) == 1


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"trainign": {}}, "spec.trainign: unknown field; did you mean training?"),
        ({"rounds": 0}, "spec.rounds: is 0; give 1 or more"),
        ({"selection": {"size": -1}}, "spec.selection.size: is -1; give 0 or more"),
        ({"selection": {"strategy": "Best"}}, "spec.selection.strategy: is 'Best'; give one of"),
    ],
)
def test_a_wrong_run_file_ends_with_40_before_anything_is_touched(
    spec: dict[str, object], expected: str, tmp_path: Path
) -> None:
    place = small_workplace(tmp_path)
    place.edit(spec)
    code, text = told(place)
    assert code == BAD_SPEC
    assert expected in text
    assert not (tmp_path / ".evolution").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("training", "expected"),
    [
        ({"targetModules": ["attention"]}, ["training.targetModules", "attention", "q_proj"]),
        ({"layers": [7]}, ["training.layers", "7", "3"]),
    ],
)
def test_training_settings_that_the_model_cannot_have_end_with_40(
    training: dict[str, object], expected: list[str], tmp_path: Path
) -> None:
    place = small_workplace(tmp_path, {"training": training})
    code, text = told(place)
    assert code == BAD_SPEC, text
    for words in expected:
        assert words in text


@pytest.mark.slow
def test_a_selection_larger_than_the_history_is_a_warning_with_both_numbers(tmp_path: Path) -> None:
    place = small_workplace(tmp_path, {"selection": {"size": 5000}})
    code, text = told(place)
    assert code == 0
    available = next(m for m in place.manifests().values() if m["kind"] == "Generate" and m["round"] == 1)
    assert "5000" in text
    assert str(available["outputs"]["pairs"]["count"]) in text
    assert "warning" in text


@pytest.mark.slow
def test_evaluation_questions_among_the_generated_ones_are_a_warning_with_the_count(tmp_path: Path) -> None:
    place = small_workplace(tmp_path, {"rounds": 1})
    assert told(place)[0] == 0
    assert place.evolve("pull", "pairs", "--to", str(tmp_path)).returncode == 0
    pairs = [json.loads(line) for line in (tmp_path / "small-r1-pairs.jsonl").read_text().splitlines()]
    with (tmp_path / "questions.jsonl").open("a") as questions:
        for pair in pairs[:2]:
            questions.write(json.dumps({"question": pair["question"], "answer": pair["answer"]}) + "\n")
    code, text = told(place)
    assert code == 0
    assert "warning: r1-evaluate: 2 " in text


def test_a_store_that_cannot_be_written_ends_with_43(tmp_path: Path) -> None:
    place = small_workplace(tmp_path)
    (tmp_path / ".evolution").write_text("a file where the folder should be")
    code, text = told(place)
    assert code == STORE, text
    assert ".evolution" in text


def test_an_s3_store_that_nobody_answers_for_ends_with_43(tmp_path: Path) -> None:
    small = small_workplace(tmp_path)
    place = Workplace(
        small.folder,
        store="s3://bucket/prefix",
        environment={
            "EVOLUTION_S3_ENDPOINT": "http://127.0.0.1:9",
            "AWS_ACCESS_KEY_ID": "nobody",
            "AWS_SECRET_ACCESS_KEY": "nothing-to-see",
        },
    )
    code, text = told(place)
    assert code == STORE, text
    assert "127.0.0.1:9" in text
    assert "nothing-to-see" not in text


def test_a_store_of_an_unknown_kind_names_the_kinds_there_are(tmp_path: Path) -> None:
    small = small_workplace(tmp_path)
    code, text = told(Workplace(small.folder, store="ftp://host/folder"))
    assert code in (BAD_SPEC, STORE)
    assert "s3://" in text


def test_validate_finds_missing_files_without_running_anything(tmp_path: Path) -> None:
    place = small_workplace(tmp_path)
    assert told(place, "validate")[0] == 0
    no_documents(place)
    code, text = told(place, "validate")
    assert code == BAD_INPUT
    assert "there is no such file or folder" in text
