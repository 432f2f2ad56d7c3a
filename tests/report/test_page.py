"""The HTML page: whole, alone on the disk, and safe with texts of strangers."""

import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from recorded import Recorded, recorded_run

from evolution.report.html import embedded_json, format_size, write_report

VOID = {"meta", "input", "br", "link", "img", "hr"}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HOSTILE = (
    'The kiln</script><script>alert(1)</script> stands in "Orvale" & <img src=x onerror=alert(2)>. '
    "It needs <b>9</b> litres <!-- <script> of oil."
)


class Page(HTMLParser):
    """A parsed page; an element that is closed in the wrong place is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self.tables: dict[str, dict[str, list[str]]] = {}
        """By caption: the cells of each row of the body by the first one."""
        self.cells: list[str] = []
        self.caption = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
            if tag == "script":
                self.scripts.append("")
            if tag == "caption":
                self.caption = ""
            if tag == "tr":
                self.cells = []
            if tag in {"th", "td"}:
                self.cells.append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag == "tr" and "tbody" in self.open:
            first, *others = (" ".join(cell.split()) for cell in self.cells)
            self.tables.setdefault(self.caption, {})[first] = others

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["script"]:
            self.scripts[-1] += data
        elif self.open[-1:] != ["style"]:
            self.text += data
            if "caption" in self.open:
                self.caption += data
            elif self.cells and {"th", "td"} & set(self.open):
                self.cells[-1] += data

    @property
    def data(self) -> dict[str, Any]:
        return json.loads(self.scripts[0])

    def with_class(self, name: str) -> list[dict[str, str | None]]:
        return [attrs for _, attrs in self.elements if name in (attrs.get("class") or "").split()]


def written(recorded: Recorded, folder: Path) -> Path:
    path = folder / "report.html"
    write_report(recorded.run, recorded.graph, recorded.artifacts, path, recorded.status)
    return path


def page_of(folder: Path, spec: Mapping[str, Any] | None = None, **more: Any) -> Page:
    return Page(written(recorded_run(folder, spec, **more), folder).read_text(encoding="utf-8"))


FOUR_ROUNDS = {"rounds": 4, "gate": {"patience": 0}, "evaluation": {"metrics": ["ExactMatch", "ROUGEL"]}}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    return written(recorded_run(folder, FOUR_ROUNDS), folder)


@pytest.fixture(scope="module")
def page(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def test_the_page_begins_with_what_happened(page: Page) -> None:
    assert "Exact match rose from 0.00 to 0.90 in 4 rounds; the best is round 4" in page.text
    assert "All 4 rounds are done." in page.text


def test_every_round_has_its_point_on_every_curve(page: Page) -> None:
    points = {(p["data-metric"], p["data-round"]) for p in page.with_class("point")}
    assert points == {(metric, str(round_)) for metric in ("ExactMatch", "ROUGEL") for round_ in range(5)}
    assert [p["data-round"] for p in page.with_class("point") if "best" in (p["class"] or "")] == ["4"]


def test_a_higher_score_is_drawn_higher(page: Page) -> None:
    points = [p for p in page.with_class("point") if p["data-metric"] == "ExactMatch"]
    heights = [float(p["cy"] or "") for p in points]
    assert heights == sorted(heights, reverse=True)
    assert len(set(heights)) == 5


def test_the_page_needs_no_network(path: Path, page: Page) -> None:
    for tag, attrs in page.elements:
        assert tag not in {"link", "img", "iframe", "object", "embed"}
        for name in ("src", "href", "srcset", "action", "data"):
            assert not attrs.get(name) or str(attrs[name]).startswith("#"), (tag, attrs)
    style = re.search(r"<style>(.*?)</style>", path.read_text(encoding="utf-8"), re.DOTALL)
    assert style
    assert "url(" not in style[1]
    assert "@import" not in style[1]


def test_only_the_pages_own_script_may_run(page: Page) -> None:
    policy = next(a["content"] for tag, a in page.elements if tag == "meta" and a.get("http-equiv"))
    assert policy
    assert "default-src 'none'" in policy
    assert "script-src 'sha256-" in policy
    assert "'unsafe-eval'" not in policy
    assert not any(name.startswith("on") for _, attrs in page.elements for name in attrs)


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    pages = [written(recorded_run(tmp_path / name, FOUR_ROUNDS), tmp_path / name).read_bytes() for name in "ab"]
    assert pages[0] == pages[1]


def test_tables_have_captions_and_headed_columns(page: Page) -> None:
    tags = [tag for tag, _ in page.elements]
    assert tags.count("table") == tags.count("caption") > 4
    assert all(attrs.get("scope") in {"col", "row"} for tag, attrs in page.elements if tag == "th")


def test_hostile_documents_are_shown_and_never_run(tmp_path: Path) -> None:
    page = page_of(tmp_path, {"rounds": 1}, documents=[HOSTILE], name="hostile")
    assert len(page.scripts) == 2
    assert not any("alert" in script for script in page.scripts[1:])
    assert [text for text, _ in page.data["documents"].values()] == [HOSTILE]
    assert "img" not in {tag for tag, _ in page.elements}


def test_hostile_settings_and_warnings_are_escaped(tmp_path: Path) -> None:
    spec = {"rounds": 1, "documents": {"uri": "s3://x/</pre><script>alert(1)</script>"}}
    recorded = recorded_run(tmp_path, spec)
    stage = recorded.graph.stages[0]
    assert stage.manifest is not None
    stage.manifest.warnings.append("<script>alert(3)</script>")
    page = Page(written(recorded, tmp_path).read_text(encoding="utf-8"))
    assert len(page.scripts) == 2
    assert "</pre><script>alert(1)</script>" in page.text
    assert "<script>alert(3)</script>" in page.text


@pytest.mark.parametrize("text", ["</script>", "<!--<script>", "]]>", "\u2028\u2029", "a & b", "\x00\ufeff", "汉字 😀"])
def test_embedded_json_keeps_every_text_and_ends_no_element(text: str) -> None:
    embedded = str(embedded_json({"text": text}))
    assert json.loads(embedded) == {"text": text}
    assert not set(embedded) & set("<>&\u2028\u2029")


@pytest.mark.parametrize("done", [0, 1, 3, 4, 5, 6, 7, 8])
def test_a_half_done_run_is_a_whole_page(tmp_path: Path, done: int) -> None:
    page = page_of(tmp_path, FOUR_ROUNDS, stages=done)
    evaluated = {0: 0, 1: 0, 3: 0, 4: 1, 5: 1, 6: 1, 7: 2, 8: 2}[done]
    assert len(page.with_class("point")) == 2 * evaluated
    assert f"{done} of " in page.text


def test_a_single_metric_a_single_round_is_a_whole_page(tmp_path: Path) -> None:
    page = page_of(tmp_path, {"rounds": 1, "evaluation": {"metrics": ["CHRF"]}})
    assert len(page.with_class("point")) == 2
    assert "chrF" in page.text


def test_scores_that_are_all_zero_can_be_drawn(tmp_path: Path) -> None:
    page = page_of(tmp_path, {"rounds": 2, "evaluation": {"metrics": ["ExactMatch"]}}, accuracy=lambda _round: 0.0)
    assert "Exact match did not rise above the 0.00 it began with in 2 rounds" in page.text


def test_a_long_run_stays_readable(tmp_path: Path) -> None:
    spec = {**FOUR_ROUNDS, "rounds": 40}
    path = written(recorded_run(tmp_path, spec), tmp_path)
    page = Page(path.read_text(encoding="utf-8"))
    assert len(page.with_class("point")) == 82
    assert "Rounds 1, 2, 37, 38, 39, 40 of 40; the table has all." in page.text
    assert path.stat().st_size < 1_000_000


def test_a_damaged_artifact_is_told_on_the_page(tmp_path: Path) -> None:
    recorded = recorded_run(tmp_path, FOUR_ROUNDS)
    recorded.blob("r2-generate", "pairs").unlink()
    page = Page(written(recorded, tmp_path).read_text(encoding="utf-8"))
    assert len(page.with_class("notice")) == 1
    assert "pairs of r2-generate" in page.text


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")
def test_a_browser_shows_the_curve_and_fills_the_tables(path: Path, tmp_path: Path) -> None:
    page = Page(dom_of(path, tmp_path))
    assert len(page.with_class("point")) == 10
    assert "39 pairs" in page.text
    assert "20 questions" in page.text
    assert page.text.count("something else") > 10


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")
def test_a_browser_runs_nothing_that_a_document_says(tmp_path: Path) -> None:
    recorded = recorded_run(tmp_path, {"rounds": 1}, documents=[HOSTILE.replace("alert(1)", "document.title='owned'")])
    dom = dom_of(written(recorded, tmp_path), tmp_path)
    assert "<title>owned" not in dom
    assert "<img" not in dom
    assert "&lt;b&gt;9&lt;/b&gt; litres" in dom


def dom_of(path: Path, profile: Path) -> str:
    """The page as headless Chromium has it once its script ran."""
    assert CHROMIUM
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", *quiet]
    profile_option = f"--user-data-dir={profile / 'chromium'}"
    done = subprocess.run(
        [*command, profile_option, "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout


@pytest.mark.parametrize(
    ("size", "said"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (4130, "4.1 kB"),
        (999_600, "1.0 MB"),
        (8.2e9, "8.2 GB"),
        (1e13, "10000 GB"),
    ],
)
def test_sizes_are_for_people(size: float, said: str) -> None:
    assert format_size(int(size)) == said
