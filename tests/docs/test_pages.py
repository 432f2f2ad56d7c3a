"""What the documents name is there: links and their anchors, commands and their options, targets of make, files."""

import re
from pathlib import Path

import pytest
import typer
from docs.pages import REPOSITORY, anchors, commands, files, links, name, pages

from evolution.cli.main import app

PROGRAM = typer.main.get_command(app)
EVOLVE = ("evolve", ".venv/bin/evolve", "kubectl evolve", "kubectl-evolve")
EACH = pytest.mark.parametrize("page", pages(), ids=name)


def test_there_are_pages_with_links_and_commands() -> None:
    assert len(pages()) > 30
    assert sum(len(links(page)) for page in pages()) > 100
    assert sum(len(commands(page, *EVOLVE)) for page in pages()) > 60
    runbooks = [page for page in pages() if page.parent.name == "runbooks"]
    assert sum(len(commands(page, *EVOLVE)) for page in runbooks) > 10


@EACH
def test_every_link_leads_somewhere(page: Path) -> None:
    broken = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


@EACH
def test_every_command_exists_with_its_options(page: Path) -> None:
    wrong = [f"{program} {' '.join(words)}" for program, *words in commands(page, *EVOLVE) if not exists(words)]
    assert wrong == []


def exists(words: list[str]) -> bool:
    if not words or not re.fullmatch(r"[a-z-]+", words[0]):
        return True  # evolve …, evolve --help
    known = PROGRAM.commands.get(words[0])
    if known is None:
        return False
    options = {option for parameter in known.params for option in (*parameter.opts, *parameter.secondary_opts)}
    given = {re.split("[=/|]", word)[0].rstrip(",]") for word in words if re.match(r"\[?--?[a-z]", word)}
    return {option.lstrip("[") for option in given} <= options | {"--help"}


@EACH
def test_every_target_of_make_exists(page: Path) -> None:
    targets = {*re.findall(r"^([a-z][a-z-]*):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)}
    named = {words[0] for _, *words in commands(page, "make") if words and re.fullmatch("[a-z][a-z-]*", words[0])}
    assert named <= targets


@EACH
def test_every_file_that_is_named_exists(page: Path) -> None:
    assert [path for path in sorted(files(page)) if not any(REPOSITORY.glob(path.rstrip("/")))] == []


def test_every_document_is_in_the_index() -> None:
    index = REPOSITORY / "docs" / "README.md"
    listed = {(index.parent / link.partition("#")[0]).resolve() for link in links(index)}
    documents = {page for page in pages() if page.parent == index.parent and page != index}
    assert sorted(name(page) for page in documents - listed) == []
