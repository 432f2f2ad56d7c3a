"""Volumes of a pod as folders of this machine, and paths of its containers turned into theirs.

There are no mount namespaces, which would need privileges: a process sees the machine's files. So mount paths are
replaced wherever a pod names one: in a command or argument, and in an environment variable that is a path.
"""

import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from controlplane.client import Api, Json, object_path
from controlplane.container_environment import NotConfigured, SourceKind, Sources, pod_field

TOKEN_SECONDS = 3600


class Volumes:
    """The volumes of one pod, below its folder; those of claims below `claims`, where they outlive it."""

    def __init__(self, api: Api, pod: Json, folder: Path, claims: Path) -> None:
        self._api = api
        self._pod = pod
        self._namespace: str = pod["metadata"]["namespace"]
        self._own = folder / "volumes"
        self._claims = claims
        self._folders: dict[str, Path] = {}

    def make(self, sources: Sources) -> None:
        """Make and fill them.

        Raises:
            NotConfigured: a Secret, a ConfigMap or a key is not there.
        """
        for volume in self._pod["spec"].get("volumes", ()):
            self._folders[volume["name"]] = self._make(volume, sources)

    def remove(self) -> None:
        """What belongs to the pod alone."""
        shutil.rmtree(self._own, ignore_errors=True)

    def mounts(self, container: Json) -> "Mounts":
        paths = {}
        for mount in container.get("volumeMounts", ()):
            source = self._folders[mount["name"]]
            if below := mount.get("subPath"):
                source /= below
                if not source.exists():
                    source.mkdir(parents=True)
            paths[mount["mountPath"].rstrip("/")] = source
        return Mounts(paths)

    def _make(self, volume: Json, sources: Sources) -> Path:
        folder: Path
        match volume:
            case {"hostPath": host}:
                folder = Path(host["path"])
                if host.get("type") == "DirectoryOrCreate":
                    folder.mkdir(parents=True, exist_ok=True)
                return folder
            case {"persistentVolumeClaim": claim}:
                folder = self._claims / self._namespace / str(claim["claimName"])
                folder.mkdir(parents=True, exist_ok=True)
                return folder
        folder = self._own / volume["name"]
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in self._files(volume, sources):
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        return folder

    def _files(self, volume: Json, sources: Sources) -> Iterable[tuple[str, bytes]]:
        match volume:
            case {"emptyDir": _}:
                pass
            case {"projected": projected}:
                for source in projected["sources"]:
                    yield from self._files(source, sources)
            case {"configMap": source}:
                yield from _selected(sources, "ConfigMap", source["name"], source)
            case {"secret": source}:
                yield from _selected(sources, "Secret", source.get("secretName") or source["name"], source)
            case {"downwardAPI": source}:
                for item in source.get("items", ()):
                    yield item["path"], pod_field(self._pod, item["fieldRef"]["fieldPath"]).encode()
            case {"serviceAccountToken": source}:
                yield source["path"], self._token(source)
            case _:
                raise NotConfigured(f"the process kubelet has no volumes of the kind of {volume}")

    def _token(self, source: Json) -> bytes:
        meta, spec = self._pod["metadata"], self._pod["spec"]
        account = object_path("serviceaccounts", spec.get("serviceAccountName", "default"), self._namespace)
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {
                "audiences": [source["audience"]] if source.get("audience") else [],
                "expirationSeconds": source.get("expirationSeconds", TOKEN_SECONDS),
                "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": meta["name"], "uid": meta["uid"]},
            },
        }
        token: str = self._api.create(f"{account}/token", request)["status"]["token"]
        return token.encode()


class Mounts:
    """Where the mount paths of a container really lie."""

    def __init__(self, paths: Mapping[str, Path]) -> None:
        self._paths = dict(paths)
        longest_first = sorted(map(re.escape, self._paths), key=len, reverse=True)
        # A mount path below another folder, as in file:///tmp, is a path of its own.
        self._pattern = re.compile(rf"(?<![\w./-])({'|'.join(longest_first)})(?![\w.-])") if self._paths else None

    def with_file(self, path: str, file: Path) -> "Mounts":
        return Mounts({**self._paths, path: file})

    def get(self, path: str) -> Path | None:
        """The folder mounted at exactly `path`."""
        return self._paths.get(path)

    def in_command(self, words: Iterable[str]) -> list[str]:
        return [self._replace(word) for word in words]

    def in_environment(self, variables: Mapping[str, str]) -> dict[str, str]:
        """Values that are paths, and no texts that contain one."""
        return {
            name: self._replace(value) if re.fullmatch(r"/[^\s\"{}]*", value) else value
            for name, value in variables.items()
        }

    def _replace(self, text: str) -> str:
        return self._pattern.sub(lambda found: str(self._paths[found[1]]), text) if self._pattern else text


def _selected(sources: Sources, kind: SourceKind, name: str, source: Json) -> Iterable[tuple[str, bytes]]:
    optional = source.get("optional", False)
    data = sources.data(kind, name, optional=optional)
    if "items" not in source:
        yield from data.items()
    for item in source.get("items", ()):
        if item["key"] in data:
            yield item["path"], data[item["key"]]
        elif not optional:
            raise NotConfigured(f"references non-existent {kind.lower()} key: {item['key']}")
