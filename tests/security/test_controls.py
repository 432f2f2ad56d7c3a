"""What docs/security.md promises is what tests try."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PRODUCT = ("evolution", "operator/evolution_operator", "trainer_image/evolution_trainer")
UNPICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}


def controls() -> list[tuple[str, list[str]]]:
    """What somebody could try, and the tests that are named for it."""
    page = (ROOT / "docs/security.md").read_text()
    table = page.partition("## What stands against what")[2].partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in table.splitlines() if line.startswith("|")][2:]
    return [(row[0].strip(), re.findall(r"`(test_\w+)`", row[2])) for row in rows]


def test_every_control_names_tests_and_all_of_them_exist() -> None:
    files = (ROOT / "tests").rglob("test_*.py")
    existing = {name for file in files for name in re.findall(r"^def (test_\w+)", file.read_text(), re.MULTILINE)}
    named = controls()
    assert len(named) >= 15
    for attempt, tests in named:
        assert tests, attempt
        assert set(tests) <= existing, (attempt, set(tests) - existing)


def test_no_code_of_a_model_is_run_and_nothing_is_unpickled() -> None:
    loads, folders = 0, set()
    for file, node in nodes():
        folders.add(next(folder for folder in PRODUCT if file.startswith(f"{folder}/")))
        where = f"{file}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            assert not {name.split(".")[0] for name in names} & UNPICKLES, where
        if isinstance(node, ast.keyword):
            assert node.arg != "trust_remote_code", where
        if isinstance(node, ast.Constant):
            assert node.value != "trust_remote_code", where
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            called = f"{getattr(node.func.value, 'id', '')}.{node.func.attr}"
            assert called not in {"torch.load", "numpy.load", "np.load"}, where
            if called == "AutoModelForCausalLM.from_pretrained":
                loads += 1
                given = {keyword.arg: keyword.value for keyword in node.keywords}
                safe = given.get("use_safetensors")
                assert isinstance(safe, ast.Constant), where
                assert safe.value is True, where
    assert loads >= 1
    assert folders == set(PRODUCT)


def nodes() -> Iterator[tuple[str, ast.AST]]:
    for folder in PRODUCT:
        for file in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text())):
                yield str(file.relative_to(ROOT)), node
