"""What vLLM's interfaces are called, read from its sources without running them; `tests/trainer` holds our calls to it.

python tests/tools/vllm_signatures.py vllm-0.32.0-….whl > tests/trainer/vllm_signatures.json
"""

import ast
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

EXPORTS = ("vllm", "LLM"), ("vllm", "SamplingParams"), ("vllm.lora.request", "LoRARequest")
CLASSES = {
    "LLM": "vllm/entrypoints/llm.py",
    "EngineArgs": "vllm/engine/arg_utils.py",
    "SamplingParams": "vllm/sampling_params.py",
    "LoRARequest": "vllm/lora/request.py",
    "TokensPrompt": "vllm/inputs/llm.py",
    "RequestOutput": "vllm/outputs.py",
    "CompletionOutput": "vllm/outputs.py",
    "CompletionRequest": "vllm/entrypoints/openai/completion/protocol.py",
    "CompletionResponseChoice": "vllm/entrypoints/openai/completion/protocol.py",
    "LoadLoRAAdapterRequest": "vllm/entrypoints/serve/lora/protocol.py",
    "UnloadLoRAAdapterRequest": "vllm/entrypoints/serve/lora/protocol.py",
}
METHODS = {"LLM.__init__": "LLM", "LLM.generate": "LLM", "RequestOutput.__init__": "RequestOutput"}


def signatures(sources: Any, version: str) -> dict[str, Any]:
    """Names alone. `sources` is the folder or archive that has `vllm/`.

    Parameters are written as `name`, `name=` where they may be left out, `*` before those given by name alone, and
    `**name`; fields of a class in the same way.
    """
    classes = {name: _class(sources, path, name) for name, path in CLASSES.items()}
    ranks = _assigned(_module(sources, "vllm/config/lora.py"), "MaxLoRARanks")
    return {
        "version": version,
        "exports": [f"{module}.{name}" for module, name in EXPORTS if _offers(sources, module, name)],
        "methods": {method: _parameters(classes[owner], method.partition(".")[2]) for method, owner in METHODS.items()},
        "fields": {name: _fields(found) for name, found in classes.items() if name not in METHODS.values()},
        "lora_ranks": [constant.value for constant in ast.walk(ranks) if isinstance(constant, ast.Constant)],
        "temperature": _greatest_temperature(classes["SamplingParams"]),
    }


def of_wheel(wheel: Path) -> dict[str, Any]:
    return signatures(zipfile.Path(wheel), wheel.name.split("-")[1])


def _module(sources: Any, path: str) -> ast.Module:
    return ast.parse((sources / path).read_text(encoding="utf-8"))


def _class(sources: Any, path: str, name: str) -> ast.ClassDef:
    body = _module(sources, path).body
    return next(node for node in body if isinstance(node, ast.ClassDef) and node.name == name)


def _offers(sources: Any, module: str, name: str) -> bool:
    """Whether `from module import name` works: by a definition, or an entry of the table of lazy imports."""
    stem = module.replace(".", "/")
    path = f"{stem}/__init__.py" if (sources / stem).is_dir() else f"{stem}.py"
    tree = _module(sources, path)
    lazily = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    return name in lazily or any(isinstance(node, ast.ClassDef) and node.name == name for node in tree.body)


def _parameters(owner: ast.ClassDef, method: str) -> list[str]:
    function = next(node for node in owner.body if isinstance(node, ast.FunctionDef) and node.name == method)
    given = function.args
    positional = [argument.arg for argument in given.args][1:]
    optional = len(given.defaults)
    names = [name if index < len(positional) - optional else f"{name}=" for index, name in enumerate(positional)]
    if given.kwonlyargs:
        names.append("*")
    names += [
        argument.arg if default is None else f"{argument.arg}="
        for argument, default in zip(given.kwonlyargs, given.kw_defaults, strict=True)
    ]
    return names + ([f"**{given.kwarg.arg}"] if given.kwarg else [])


def _fields(owner: ast.ClassDef) -> list[str]:
    found = []
    for node in owner.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id[0] != "_":
            left_out = node.value is not None or "NotRequired" in ast.dump(node.annotation)
            found.append(f"{node.target.id}=" if left_out else node.target.id)
    return found


def _assigned(module: ast.Module, name: str) -> ast.expr:
    return next(
        node.value
        for node in module.body
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets)
    )


def _greatest_temperature(sampling: ast.ClassDef) -> float:
    """The bound that `self.temperature > bound` refuses."""
    return next(
        float(node.comparators[0].value)
        for node in ast.walk(sampling)
        if isinstance(node, ast.Compare)
        and isinstance(node.left, ast.Attribute)
        and node.left.attr == "temperature"
        and isinstance(node.ops[0], ast.Gt)
        and isinstance(node.comparators[0], ast.Constant)
        and isinstance(node.comparators[0].value, float)
    )


if __name__ == "__main__":
    sys.stdout.write(json.dumps(of_wheel(Path(sys.argv[1])), indent=1) + "\n")
