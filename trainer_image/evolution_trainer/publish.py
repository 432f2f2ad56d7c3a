"""The stage `Publish`: an adapter becomes a plain PEFT folder that vLLM, KServe and PEFT load as it is."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from pydantic import JsonValue

from evolution.api.locations import hub_location
from evolution.plan.manifest import Record
from evolution.plan.stage import canonical_json
from evolution.store.artifacts import digest_file
from evolution.store.base import StoreRefused
from evolution.store.open import local_path, open_store
from evolution_trainer.stage import Output, Result, StageRun

SETTINGS = "adapter_config.json"


class PublishParameters(Record):
    uri: str
    model: str
    """Location of the base model."""


def run(stage: StageRun) -> Result:
    """Input: adapter. Output: published, a listing of what lies at `uri` now. Doing it again changes nothing."""
    parameters = PublishParameters.model_validate(stage.parameters)
    files = sorted(p for p in stage.artifacts.fetch_tree(stage.inputs["adapter"]).rglob("*") if p.is_file())
    # The settings go last: whoever finds them finds the weights too.
    files.sort(key=lambda path: path.name == SETTINGS)
    put = _target(parameters.uri)
    listing: list[JsonValue] = []
    for done, file in enumerate(files, 1):
        source = _with_base(file, parameters.model, stage.scratch) if file.name == SETTINGS else file
        put(source, file.name)
        digest, size = digest_file(source)
        listing.append({"name": file.name, "digest": digest, "size": size})
        stage.progress("files", done, len(files))
    published = stage.scratch / "published.json"
    published.write_bytes(canonical_json({"uri": parameters.uri, "files": listing}))
    return Result(outputs={"published": Output(published)}, metrics={"uri": parameters.uri, "files": len(files)})


def _target(uri: str) -> Callable[[Path, str], None]:
    """What puts a file under a name at `uri`."""
    folder = local_path(uri)
    if folder is None:
        return open_store(uri).upload

    def put(source: Path, name: str) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            partial = folder / f".{name}.partial"
            shutil.copyfile(source, partial)
            partial.replace(folder / name)
        except OSError as error:
            raise StoreRefused(f"publish.uri {uri}: {name} cannot be written: {error.strerror or error}") from error

    return put


def _with_base(settings: Path, model: str, scratch: Path) -> Path:
    """`adapter_config.json` that names its base model as PEFT expects it: a path, or name and revision on the hub."""
    document = json.loads(settings.read_bytes())
    if hub := hub_location(model):
        document |= {"base_model_name_or_path": hub.name, "revision": hub.revision}
    else:
        document["base_model_name_or_path"] = str(local_path(model) or model)
    changed = scratch / SETTINGS
    changed.write_text(json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    return changed
