"""The stage `Prepare` for documents: stable ids, counts, rejects, and the same output for the same contents."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from trainer_data.preparing import MODEL, Preparation, write_files, write_rows

from evolution.plan.stage import sha256
from evolution.plan.worker import ExitCode
from evolution_trainer.failure import StageFailed

SHARED = Path(__file__).parents[3] / "shared"
DATA = Path(os.environ.get("EVOLUTION_DATA_DIR", SHARED / "data")) / "aiops"
CHINESE_MODEL = Path(os.environ.get("EVOLUTION_PARITY_DIR", SHARED / "parity")) / "model"
PUMP, VALVE = "The pump runs at 5 bar.", "The valve opens at 7 bar."

aiops = pytest.mark.skipif(
    not (DATA.exists() and CHINESE_MODEL.exists()),
    reason=f"{DATA} (EVOLUTION_DATA_DIR) or {CHINESE_MODEL} (EVOLUTION_PARITY_DIR) does not exist",
)


def test_a_document_gets_its_id_from_its_text_and_the_tag_of_its_language(
    preparation: Preparation, tmp_path: Path
) -> None:
    prepared = preparation.documents(write_files(tmp_path / "docs", pump=PUMP, zh="水泵的压力为五巴。"))
    rows = {row["text"]: row for row in prepared.rows("documents")}
    assert rows[PUMP] == {"id": sha256(PUMP.encode())[:16], "text": PUMP, "language": "en"}
    assert rows["水泵的压力为五巴。"]["language"] == "zh"
    assert {"id": rows[PUMP]["id"], "source": "pump.txt"} in prepared.rows("sources")


def test_renaming_reordering_and_reformatting_documents_changes_nothing(
    preparation: Preparation, tmp_path: Path
) -> None:
    one = preparation.documents(write_files(tmp_path / "one", a=PUMP, b=VALVE))
    other = preparation.documents(write_files(tmp_path / "other", a=f"{VALVE}  \r\n\r\n", z=f"\n{PUMP}"))
    rows = preparation.documents(write_rows(tmp_path / "rows.jsonl", [{"text": VALVE}, {"text": PUMP}]))
    assert one.bytes("documents") == other.bytes("documents") == rows.bytes("documents")
    assert [row["id"] for row in one.rows("documents")] == sorted(row["id"] for row in one.rows("documents"))


def test_duplicates_are_dropped_and_counted(preparation: Preparation, tmp_path: Path) -> None:
    source = write_files(tmp_path / "docs", a=PUMP, b=PUMP, c=PUMP.upper(), d=VALVE)
    prepared = preparation.documents(source)
    assert len(prepared.rows("documents")) == 2
    assert prepared.result.metrics == {
        "documents": 4,
        "chunks": 2,
        "duplicates": 1,
        "nearDuplicates": 1,
        "rejects": {},
        "characters": len(PUMP) + len(VALVE),
    }
    assert len(prepared.rows("sources")) + len(prepared.rows("rejects")) == 4
    assert {row["reason"] for row in prepared.rows("rejects")} == {"NearDuplicate"}


def test_the_reference_keeps_duplicates_order_and_texts_as_they_are(preparation: Preparation, tmp_path: Path) -> None:
    texts = [VALVE, PUMP, f"{VALVE} ", VALVE]
    source = write_rows(tmp_path / "docs.jsonl", [{"instruction": text} for text in texts])
    prepared = preparation.documents(source, rules="Reference")
    rows = prepared.rows("documents")
    assert [row["text"] for row in rows] == texts
    assert rows[3]["id"] == f"{rows[0]['id']}-2"
    assert prepared.result.metrics["documents"] == prepared.result.metrics["chunks"] == 4
    assert prepared.result.metrics["duplicates"] == prepared.result.metrics["nearDuplicates"] == 0


def test_a_long_document_becomes_several_with_the_same_source(preparation: Preparation, tmp_path: Path) -> None:
    text = "\n\n".join(f"Paragraph {n}. {PUMP} {VALVE}" for n in range(20))
    prepared = preparation.documents(write_files(tmp_path / "docs", manual=text), maxTokens=64)
    rows = prepared.rows("documents")
    assert len(rows) > 3
    assert sorted(line for row in rows for line in row["text"].split("\n\n")) == sorted(text.split("\n\n"))
    assert {row["source"] for row in prepared.rows("sources")} == {"manual.txt"}
    assert (prepared.result.metrics["documents"], prepared.result.metrics["chunks"]) == (1, len(rows))


def test_an_unusable_document_fails_the_stage_with_place_and_remedy(preparation: Preparation, tmp_path: Path) -> None:
    source = write_files(tmp_path / "docs", good=PUMP)
    (source / "rows.jsonl").write_text('{"text": "ok"}\n{"text": 42}\n')
    with pytest.raises(StageFailed) as failure:
        preparation.documents(source)
    assert (failure.value.reason, failure.value.code) == ("DocumentInvalid", ExitCode.BAD_INPUT)
    assert "rows.jsonl:2: field 'text' is 42 (a number); it must be text" in str(failure.value)
    assert "documents.onInvalid: Skip" in str(failure.value)


def test_unusable_documents_are_skipped_and_counted_if_so_wished(preparation: Preparation, tmp_path: Path) -> None:
    source = write_files(tmp_path / "docs", good=PUMP, empty=" \n")
    (source / "rows.jsonl").write_text('{"text": 42}\n{broken\n')
    (source / "scan.pdf").write_bytes(b"%PDF")
    prepared = preparation.documents(source, onInvalid="Skip")
    assert [row["text"] for row in prepared.rows("documents")] == [PUMP]
    assert prepared.result.metrics["rejects"] == {"BrokenJSON": 1, "Empty": 1, "NotText": 1}
    assert {(row["source"], row["reason"]) for row in prepared.rows("rejects")} == {
        ("empty.txt", "Empty"),
        ("rows.jsonl:1", "NotText"),
        ("rows.jsonl:2", "BrokenJSON"),
    }
    assert "files of other kinds were left out: 1 .pdf" in prepared.result.warnings


def test_nothing_usable_at_all_fails_even_where_documents_may_be_skipped(
    preparation: Preparation, tmp_path: Path
) -> None:
    with pytest.raises(StageFailed, match="not one document can be used; 2 Empty"):
        preparation.documents(write_files(tmp_path / "docs", a=" ", b="\n"), onInvalid="Skip")


def test_documents_longer_than_the_model_can_read_are_a_warning(preparation: Preparation, tmp_path: Path) -> None:
    source = write_files(tmp_path / "docs", a=PUMP)
    assert preparation.documents(source, maxTokens=511).result.warnings == []
    (warning,) = preparation.documents(source, maxTokens=512).result.warnings
    assert "documents.maxTokens is 512, but the model was made for 512 tokens" in warning


@aiops
@pytest.mark.aiops
@pytest.mark.parametrize("rules", ["Default", "Reference"])
def test_the_aiops_documents_are_prepared(tmp_path: Path, rules: str) -> None:
    preparation = Preparation(tmp_path, CHINESE_MODEL)
    raw = [row["instruction"] for row in json.loads((DATA / "AIOps_data.json").read_text(encoding="utf-8"))]
    prepared = preparation.documents(DATA / "AIOps_data.json", maxTokens=1536, rules=rules)
    metrics, rows = prepared.result.metrics, prepared.rows("documents")
    assert metrics["documents"] == len(raw)
    assert {row["language"] for row in rows} == {"zh"}
    if rules == "Reference":
        assert [row["text"] for row in rows] == raw
        return
    assert metrics["chunks"] + metrics["duplicates"] + metrics["nearDuplicates"] == len(raw)  # type: ignore[operator]
    assert len({row["id"] for row in rows}) == len(rows) <= len(set(raw))


PEAK = """
import resource, sys
from pathlib import Path
from trainer_data.preparing import Preparation
Preparation(Path(sys.argv[1]), Path(sys.argv[2])).documents(Path(sys.argv[3]), maxTokens=int(sys.argv[4]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def peak_megabytes(folder: Path, model: Path, documents: Path, max_tokens: int) -> int:
    arguments = [str(folder), str(model), str(documents), str(max_tokens)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *arguments], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return int(done.stdout)


def aiops_file(path: Path, count: int) -> Path:
    rows = json.loads((DATA / "AIOps_data.json").read_text(encoding="utf-8"))[:count]
    path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return path


def text_files(path: Path, count: int) -> Path:
    return write_files(path, **{f"doc{n}": f"{PUMP} It is machine {n}. {VALVE} " * 8 for n in range(count)})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "model"),
    [(text_files, MODEL), pytest.param(aiops_file, CHINESE_MODEL, marks=[aiops, pytest.mark.aiops])],
)
def test_memory_does_not_grow_with_the_number_of_documents(
    tmp_path: Path, source: Callable[[Path, int], Path], model: Path
) -> None:
    few = peak_megabytes(tmp_path / "few", model, source(tmp_path / "200.json", 200), 256)
    many = peak_megabytes(tmp_path / "many", model, source(tmp_path / "4000.json", 4000), 256)
    assert many <= few * 1.05, f"{few} MB for 200 documents, {many} MB for 4,000"
