"""The documents of this repository, and what they name: links, commands, targets of make, files."""

import re
import shlex
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
FENCE = re.compile(r"^\s*```")
FOLDERS = "crds|deploy|docs|evolution|examples|gitops|helm|images|monitoring|operator|tests|trainer_image"


@cache
def pages() -> tuple[Path, ...]:
    """Every Markdown file that is ours, by git's account, new ones included."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    return tuple(file for line in listed.stdout.splitlines() if (file := REPOSITORY / line).is_file())


def name(page: Path) -> str:
    return page.relative_to(REPOSITORY).as_posix()


def prose(page: Path) -> str:
    """Without what is fenced."""
    fenced = False
    kept = []
    for line in page.read_text(encoding="utf-8").splitlines():
        if FENCE.match(line):
            fenced = not fenced
        elif not fenced:
            kept.append(line)
    return "\n".join(kept)


def links(page: Path) -> list[str]:
    """Targets of relative links and pictures."""
    targets = re.findall(r"!?\[[^]]*\]\(([^)\s]+)\)", re.sub(r"`[^`\n]+`", "", prose(page)))
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
        anchor = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        found.add(next(a for a in (anchor, *(f"{anchor}-{n}" for n in range(1, 99))) if a not in found))
    return found


def code(page: Path) -> Iterator[str]:
    """Lines of fenced code with their continuations joined, without prompt and comment, and inline code."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    fenced = False
    for line in text.splitlines():
        if FENCE.match(line):
            fenced = not fenced
        elif fenced:
            yield re.sub(r"\s+#.*$", "", line).strip().removeprefix("$ ").strip()
        else:
            yield from re.findall(r"`([^`\n]+)`", line)


def commands(page: Path, *programs: str) -> list[list[str]]:
    """Words of the commands that begin with one of the programs, such as `evolve` or `kubectl evolve`."""
    parts = [part for line in code(page) for part in re.split(r"\s(?:\||&&|;)\s", line)]
    called = [(program, part) for part in parts for program in programs if part.startswith(f"{program} ")]
    return [[program, *_words(part.removeprefix(program))] for program, part in called]


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:  # a quote that ends on another line
        return text.split()


def files(page: Path) -> set[str]:
    """Paths into this repository, as far as they have no placeholders."""
    found = re.findall(rf"(?<![\w/.:@-])((?:{FOLDERS})/[\w./*-]*)(?![\w<{{…])", page.read_text(encoding="utf-8"))
    return {path.rstrip(".-") for path in found}
