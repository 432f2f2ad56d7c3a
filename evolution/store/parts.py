"""Parts of a stage that several workers share: what each has done, kept until one of them has put it all together.

A part is recorded like a finished stage, by a manifest that is created once, but apart from those: nobody but the
workers of its stage needs it.
"""

from dataclasses import dataclass

from pydantic import ValidationError

from evolution.plan.manifest import Manifest
from evolution.store import keys
from evolution.store.artifacts import ArtifactDamaged, Artifacts


@dataclass(frozen=True)
class Parts:
    """The parts of the stage `fingerprint`, which so many workers share."""

    artifacts: Artifacts
    fingerprint: str
    shards: int

    def read(self, shard: int) -> Manifest | None:
        """What that shard has done; None if it is not done, or its record cannot be read."""
        data = self.artifacts.store.read(self._key(shard))
        return read_part(data) if data is not None else None

    def all(self) -> list[Manifest] | None:
        """Every part, in the order of the shards; None while one is missing."""
        found = []
        for shard in range(self.shards):
            part = self.read(shard)
            if part is None:
                return None
            found.append(part)
        return found

    def commit(self, shard: int, part: Manifest) -> None:
        """Declare a part done, after its outputs were put; one that is there already stays."""
        if not self.artifacts.store.create(self._key(shard), part.to_json()) and self.read(shard) is None:
            self.artifacts.store.write(self._key(shard), part.to_json())

    def discard_damaged(self) -> list[ArtifactDamaged]:
        """Remove parts with missing or damaged outputs, so that their shards do them again; what was wrong."""
        damages: list[ArtifactDamaged] = []
        for shard in range(self.shards):
            part = self.read(shard)
            damaged = self.artifacts.verify(part) if part else []
            if damaged:
                for damage in damaged:
                    self.artifacts.store.delete(keys.blob(damage.digest))
                self.artifacts.store.delete(self._key(shard))
                damages += damaged
        return damages

    def remove(self) -> None:
        """Remove the records of all parts, once the stage is done; their blobs are garbage then."""
        for shard in range(self.shards):
            self.artifacts.store.delete(self._key(shard))

    def _key(self, shard: int) -> str:
        return keys.part(self.fingerprint, shard, self.shards)


def read_part(data: bytes) -> Manifest | None:
    """The record of a part; None if it is damaged."""
    try:
        return Manifest.model_validate_json(data)
    except ValidationError:
        return None
