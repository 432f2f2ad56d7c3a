"""Environment and command of a container, from what its pod says; as the kubelet does it."""

import re
from base64 import b64decode
from collections.abc import Iterable, Mapping
from typing import Literal

from controlplane.client import Api, ApiError, Json, object_path

SourceKind = Literal["ConfigMap", "Secret"]
PLURALS: Mapping[SourceKind, str] = {"ConfigMap": "configmaps", "Secret": "secrets"}


class NotConfigured(Exception):
    """A container cannot be made yet: CreateContainerConfigError."""


class Sources:
    """The Secrets and ConfigMaps of a namespace, each read once."""

    def __init__(self, api: Api, namespace: str) -> None:
        self._api = api
        self._namespace = namespace
        self._read: dict[tuple[SourceKind, str], dict[str, bytes]] = {}

    def data(self, kind: SourceKind, name: str, *, optional: bool = False) -> dict[str, bytes]:
        """Values by key; none for an optional object that is not there.

        Raises:
            NotConfigured: it is not there.
        """
        if (kind, name) not in self._read:
            try:
                found = self._api.get(object_path(PLURALS[kind], name, self._namespace))
            except ApiError as error:
                if error.code != 404:
                    raise
                if optional:
                    return {}
                raise NotConfigured(f'{kind.lower()} "{name}" not found') from error
            self._read[kind, name] = _values(kind, found)
        return self._read[kind, name]

    def value(self, kind: SourceKind, reference: Json) -> str | None:
        """The value that a key selector names; None if it is optional and not there.

        Raises:
            NotConfigured: object or key are not there.
        """
        optional = reference.get("optional", False)
        data = self.data(kind, reference["name"], optional=optional)
        if reference["key"] in data:
            return data[reference["key"]].decode()
        if optional:
            return None
        where = f"{kind} {self._namespace}/{reference['name']}"
        raise NotConfigured(f"couldn't find key {reference['key']} in {where}")


def environment(pod: Json, container: Json, sources: Sources) -> dict[str, str]:
    """Variables of `envFrom` and `env`.

    Raises:
        NotConfigured: a Secret, a ConfigMap or a key is not there.
    """
    result: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        kind, reference = _source(source, "Ref")
        data = sources.data(kind, reference["name"], optional=reference.get("optional", False))
        result.update({source.get("prefix", "") + key: value.decode() for key, value in data.items()})
    for variable in container.get("env", ()):
        value = _value(variable, pod, container, sources, result)
        if value is not None:
            result[variable["name"]] = value
    return result


def command(container: Json, variables: Mapping[str, str]) -> list[str]:
    """Command and arguments; empty if the image would have to say what to run."""
    return [expand(word, variables) for word in (*container.get("command", ()), *container.get("args", ()))]


def expand(text: str, variables: Mapping[str, str]) -> str:
    """$(NAME) becomes the variable's value, or stays if there is none; $$ becomes $."""
    return re.sub(
        r"\$\$|\$\(([^)]*)\)", lambda found: "$" if found[0] == "$$" else variables.get(found[1], found[0]), text
    )


def pod_field(pod: Json, path: str) -> str:
    """What a fieldRef names."""
    if key := re.fullmatch(r"metadata\.(labels|annotations)\['(.+)'\]", path):
        return str(pod["metadata"].get(key[1], {}).get(key[2], ""))
    if path in {"metadata.labels", "metadata.annotations"}:
        entries = pod["metadata"].get(path.removeprefix("metadata."), {})
        return _lines(f'{key}="{value}"' for key, value in sorted(entries.items()))
    if path in {"status.podIP", "status.podIPs", "status.hostIP", "status.hostIPs"}:
        return "127.0.0.1"
    found: object = pod
    for name in path.split("."):
        found = found.get(name, "") if isinstance(found, dict) else ""
    return str(found)


def _value(variable: Json, pod: Json, container: Json, sources: Sources, earlier: Mapping[str, str]) -> str | None:
    match variable.get("valueFrom"):
        case None:
            return expand(variable.get("value", ""), earlier)
        case {"fieldRef": reference}:
            return pod_field(pod, reference["fieldPath"])
        case {"resourceFieldRef": reference}:
            bound, resource = reference["resource"].split(".", 1)
            return str(container.get("resources", {}).get(bound, {}).get(resource, ""))
        case source:
            kind, reference = _source(source, "KeyRef")
            return sources.value(kind, reference)


def _source(source: Json, suffix: str) -> tuple[SourceKind, Json]:
    if reference := source.get(f"secret{suffix}"):
        return "Secret", reference
    return "ConfigMap", source[f"configMap{suffix}"]


def _values(kind: SourceKind, found: Json) -> dict[str, bytes]:
    if kind == "Secret":
        return {key: b64decode(value) for key, value in found.get("data", {}).items()}
    text = {key: value.encode() for key, value in found.get("data", {}).items()}
    return {**text, **{key: b64decode(value) for key, value in found.get("binaryData", {}).items()}}


def _lines(lines: Iterable[str]) -> str:
    return "\n".join(lines)
