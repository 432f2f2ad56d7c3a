"""Argo CD's way of asking for health: a script from its settings in Lua 5.1, with the object as `obj`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from lupa import lua51

SETTINGS = Path(__file__).parents[2] / "gitops" / "argocd" / "argocd-cm.yaml"
PREFIX = "resource.customizations.health."


def scripts() -> dict[str, str]:
    """By group and kind, joined by an underscore."""
    data: dict[str, str] = yaml.safe_load(SETTINGS.read_text(encoding="utf-8"))["data"]
    return {key.removeprefix(PREFIX): script for key, script in data.items()}


def health(body: Mapping[str, Any]) -> tuple[str, str]:
    """Status and message."""
    group = body["apiVersion"].partition("/")[0]
    lua = lua51.LuaRuntime()
    lua.globals().obj = lua.table_from(body, recursive=True)
    result = lua.execute(scripts()[f"{group}_{body['kind']}"])
    return result["status"], result["message"]
