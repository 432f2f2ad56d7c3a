"""Documents are read from every supported kind of file, and what cannot be used is named with its place and remedy."""

import json
from pathlib import Path

import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from evolution_trainer import records
from evolution_trainer.documents import Document, Documents, normalised
from evolution_trainer.failure import StageFailed
from evolution_trainer.records import Record, Unusable, read_records


def read(root: Path, field: str = "") -> list[Document | Unusable]:
    return list(Documents(root, field=field))


def only(root: Path, field: str = "") -> Document | Unusable:
    (found,) = read(root, field)
    return found


def written(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_a_folder_is_read_recursively_by_name_and_every_document_tells_where_it_is_from(tmp_path: Path) -> None:
    written(tmp_path / "b.txt", "second")
    written(tmp_path / "a" / "pump.md", "# first")
    written(tmp_path / "c.jsonl", '{"text": "third"}\n\n{"content": "fourth"}\n')
    written(tmp_path / "d.json", '[\n{"document": "fifth"},\n{"instruction": "sixth", "output": "x"}]')
    written(tmp_path / ".hidden" / "no.txt", "not read")
    parquet.write_table(pyarrow.table({"text": ["seventh", "eighth"], "n": [1, 2]}), tmp_path / "e.parquet")
    assert read(tmp_path) == [
        Document("a/pump.md", "# first"),
        Document("b.txt", "second"),
        Document("c.jsonl:1", "third"),
        Document("c.jsonl:3", "fourth"),
        Document("d.json:2, element 1", "fifth"),
        Document("d.json:3, element 2", "sixth"),
        Document("e.parquet:1", "seventh"),
        Document("e.parquet:2", "eighth"),
    ]


@pytest.mark.parametrize("name", ["docs.jsonl", "docs.json", "pump.txt"])
def test_a_single_file_may_be_named_and_may_begin_with_a_byte_order_mark(tmp_path: Path, name: str) -> None:
    content = "words" if name == "pump.txt" else '{"text": "words"}'
    document = only(written(tmp_path / name, b"\xef\xbb\xbf" + content.encode()))
    assert isinstance(document, Document)
    assert document.text == "words"


def test_the_named_field_wins_over_the_usual_ones(tmp_path: Path) -> None:
    source = written(tmp_path / "docs.jsonl", '{"text": "no", "body": "yes"}\n')
    assert only(source, "body") == Document("docs.jsonl:1", "yes")


def test_json_may_hold_one_object_or_several_in_a_row(tmp_path: Path) -> None:
    assert only(written(tmp_path / "one.json", '{"text": "one"}')) == Document("one.json:1, element 1", "one")
    several = read(written(tmp_path / "rows.json", '{"text": "one"}\n{"text": "two"}'))
    assert [d.text for d in several if isinstance(d, Document)] == ["one", "two"]


@pytest.mark.parametrize(
    ("name", "content", "origin", "reason", "words"),
    [
        ("a.jsonl", '{"text": "x"}\n{"text": "A val\n', "a.jsonl:2", "BrokenJSON", ["not JSON", "column 10"]),
        ("a.jsonl", '"x"\n', "a.jsonl:1", "NotARecord", ['"x"', "must be an object"]),
        ("a.jsonl", '{"title": "x"}\n', "a.jsonl:1", "MissingField", ["'text'", "'title'", "documents.field"]),
        ("a.jsonl", '{"text": 42}\n', "a.jsonl:1", "NotText", ["'text' is 42 (a number)", "must be text"]),
        ("a.jsonl", '{"text": null}\n', "a.jsonl:1", "NotText", ["null", "must be text"]),
        ("a.jsonl", '{"text": " "}\n', "a.jsonl:1", "Empty", ["is empty"]),
        ("a.jsonl", '{"text": "\\ud800"}\n', "a.jsonl:1", "WrongEncoding", ["surrogate"]),
        (
            "a.jsonl",
            b'{"text": "ok"}\n{"text": "\xc3\xb6 \xd6l"}\n',
            "a.jsonl:2",
            "WrongEncoding",
            ["byte 28 (0xd6)", "iconv"],
        ),
        ("a.jsonl", "[" * 100_000, "a.jsonl:1", "BrokenJSON", ["JSON"]),
        ("a.json", '[{"text": "x"},\n {"text": }]', "a.json:2, element 2", "BrokenJSON", ["line 2", "not read"]),
        ("a.json", '[{"text": "x"}\n{"text": "y"}]', "a.json:1, element 1", "BrokenJSON", ["instead of a comma"]),
        ("a.json", '[{"text": "x"},', "a.json:1", "BrokenJSON", ["ends inside the array", "complete"]),
        ("a.json", '[{"text": "x"}] []', "a.json:1", "BrokenJSON", ["more text"]),
        ("a.json", b'[{"text": "x"},\n{"text": "\xd6"}]', "a.json:2", "WrongEncoding", ["byte 26 (0xd6)"]),
        ("a.txt", "中文手册".encode("gb18030"), "a.txt:1", "WrongEncoding", ["not UTF-8", "-f GB18030"]),
        ("a.txt", b"Pumpe\nf\xf6rdert \xd6l", "a.txt:2", "WrongEncoding", ["byte 7 (0xf6)", "-f WINDOWS-1252"]),
        ("a.txt", "pump".encode("utf-16"), "a.txt:1", "WrongEncoding", ["-f UTF-16"]),
        ("a.txt", "pump".encode("utf-16-le"), "a.txt", "WrongEncoding", ["NUL"]),
        ("a.txt", " \n\x00".replace("\x00", "\x01"), "a.txt", "Empty", ["is empty"]),
        ("a.parquet", b"PAR1 no", "a.parquet:1", "Unreadable", ["Parquet"]),
    ],
)
def test_what_cannot_be_used_is_named_with_place_value_and_remedy(
    tmp_path: Path, name: str, content: str | bytes, origin: str, reason: str, words: list[str]
) -> None:
    unusable = [found for found in read(written(tmp_path / name, content)) if isinstance(found, Unusable)]
    assert [(found.origin, found.reason) for found in unusable] == [(origin, reason)]
    for word in words:
        assert word in unusable[0].detail


def test_a_broken_line_does_not_keep_the_lines_after_it_from_being_read(tmp_path: Path) -> None:
    found = read(written(tmp_path / "a.jsonl", '{"text": "x"}\n{broken\n{"text": "y"}\n'))
    assert [type(one) for one in found] == [Document, Unusable, Document]


def test_parquet_without_the_field_or_with_other_values_is_told_row_by_row(tmp_path: Path) -> None:
    parquet.write_table(pyarrow.table({"body": ["x"], "n": [1]}), tmp_path / "a.parquet")
    missing = only(tmp_path / "a.parquet")
    assert isinstance(missing, Unusable)
    assert (missing.origin, missing.reason) == ("a.parquet:1", "MissingField")
    assert "'body', 'n'" in missing.detail
    number = only(tmp_path / "a.parquet", "n")
    assert isinstance(number, Unusable)
    assert "1 (a number)" in number.detail


def test_files_of_other_kinds_are_counted_and_a_folder_of_nothing_else_is_an_error(tmp_path: Path) -> None:
    for name in ("a.pdf", "b.pdf", "c.docx"):
        written(tmp_path / name, "x")
    with pytest.raises(StageFailed, match=r"no documents \(only 2 \.pdf, 1 \.docx\); supported are \.json, \.jsonl"):
        read(tmp_path)
    written(tmp_path / "d.txt", "words")
    documents = Documents(tmp_path)
    assert [one.origin for one in documents] == ["d.txt"]
    assert documents.left_out == {".pdf": 2, ".docx": 1}


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match="no documents"):
        read(tmp_path)


def test_a_link_that_leads_nowhere_is_told_as_unreadable(tmp_path: Path) -> None:
    (tmp_path / "a.txt").symlink_to(tmp_path / "gone.txt")
    found = only(tmp_path)
    assert isinstance(found, Unusable)
    assert (found.origin, found.reason) == ("a.txt", "Unreadable")
    assert "No such file" in found.detail


JSON_OBJECTS = st.lists(
    st.dictionaries(
        st.text(max_size=5),
        st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=9), st.lists, max_leaves=5),
        max_size=3,
    ),
    max_size=6,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=JSON_OBJECTS, indent=st.sampled_from([None, 0, 2]), chunk=st.integers(1, 40), ascii_only=st.booleans())
def test_an_array_read_in_chunks_of_any_size_holds_what_it_holds(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rows: list[dict[str, object]],
    indent: int | None,
    chunk: int,
    ascii_only: bool,
) -> None:
    monkeypatch.setattr(records, "CHUNK", chunk)
    path = written(tmp_path / "rows.json", json.dumps(rows, indent=indent, ensure_ascii=ascii_only))
    found = list(read_records(path, "rows.json"))
    assert [record.fields for record in found if isinstance(record, Record)] == rows


@given(st.text())
def test_normalising_twice_is_normalising_once(text: str) -> None:
    assert normalised(normalised(text)) == normalised(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\r\nb\rc", "a\nb\nc"),
        ("a  \n\t\nb", "a\n\nb"),
        ("a\n\n\n\n\n\nb", "a\n\n\nb"),
        ("\ufeffa\x00\x07b", "ab"),
        ("page 1\x0cpage 2", "page 1\npage 2"),
        ("e\u0301", "é"),
        ("\n\n  indented\n", "  indented"),
    ],
)
def test_normalising_removes_what_nobody_sees(text: str, expected: str) -> None:
    assert normalised(text) == expected


def test_verbatim_documents_are_left_as_they_are(tmp_path: Path) -> None:
    source = written(tmp_path / "a.jsonl", json.dumps({"text": "\na \r\n"}) + "\n")
    assert list(Documents(source, verbatim=True)) == [Document("a.jsonl:1", "\na \r\n")]
