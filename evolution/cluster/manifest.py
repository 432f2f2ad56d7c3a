"""A run file on its way to a cluster: valid, and naming nothing that only this machine has."""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import yaml

from evolution.api.errors import FieldError, InvalidRun
from evolution.api.load import load_run
from evolution.api.run import EvolutionRun


@dataclass(frozen=True)
class Manifest:
    """A run file that a cluster can run."""

    run: EvolutionRun
    text: str
    """The file as its author wrote it: presets are applied by the operator."""
    namespace: str
    """The namespace to apply it to; empty where neither file nor option names one."""


def load_manifest(path: Path, namespace: str) -> Manifest:
    """The run in `path`, to be applied to `namespace` (empty: the file's own, if it names one).

    Raises:
        InvalidRun: a field is wrong, names a place on this machine, or the namespace is another one.
    """
    run = load_run(path)
    text = path.read_text(encoding="utf-8")
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    assert root is not None
    own = _find(root, ("metadata", "namespace"))
    if own and namespace and own.value != namespace:
        message = f"is {own.value!r}, but --namespace says {namespace!r}; change one of them"
        raise InvalidRun(str(path), [FieldError("metadata.namespace", message, own.start_mark.line + 1)])
    local = list(_places_on_this_machine(run, root))
    if local:
        raise InvalidRun(str(path), local)
    return Manifest(run, text, str(own.value) if own else namespace)


def _places_on_this_machine(run: EvolutionRun, root: yaml.Node) -> Iterator[FieldError]:
    spec = run.spec
    locations = {
        ("model", "uri"): spec.model.uri,
        ("model", "adapterURI"): spec.model.adapter_uri,
        ("documents", "uri"): spec.documents.uri,
        ("evaluation", "uri"): spec.evaluation.uri,
        ("publish", "uri"): spec.publish.uri if spec.publish else "",
    }
    for field, uri in locations.items():
        node = _find(root, ("spec", *field)) if uri.startswith("file://") else None
        if node is None:
            continue
        path = Path(unquote(urlsplit(uri).path))
        bucket = f"s3://BUCKET/{path.name}"
        if field[0] == "publish":
            remedy = f"publish to a bucket: {bucket}"
        else:
            copy = ["aws", "s3", "cp", *(["--recursive"] if path.is_dir() else []), str(path), bucket]
            remedy = f"upload it, for example with `{shlex.join(copy)}`, and write {bucket} instead"
        message = f"is {str(node.value)!r}, a place on this machine, which the cluster cannot see; {remedy}"
        yield FieldError(".".join(("spec", *field)), message, node.start_mark.line + 1)


def _find(node: yaml.Node, path: Sequence[str]) -> yaml.Node | None:
    """The scalar at `path`; None if there is none."""
    for name in path:
        if not isinstance(node, yaml.MappingNode):
            return None
        found = next((value for key, value in node.value if key.value == name), None)
        if found is None:
            return None
        node = found
    return node if isinstance(node, yaml.ScalarNode) and node.tag != "tag:yaml.org,2002:null" else None
