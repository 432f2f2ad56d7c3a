"""Looking at documents and evaluation sets with the operator's own credentials: names, sizes and ETags alone."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from evolution.api.run import EvolutionRunSpec
from evolution.plan.stage import canonical_json, sha256
from evolution.schedule import UNAVAILABLE, Sight
from evolution.store.base import StoreError, StoreUnavailable
from evolution.store.source_files import SourceUnusable
from evolution.store.visible import visible_revision

THREADS = 4
LONGEST_SECONDS = 120.0
"""For one source; a listing of a million objects takes about that."""
DIGITS = 16
"""Of the digests; people read them."""


class Sources:
    """What lies where runs read, asked for in threads, since the store's client blocks."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="sources")

    async def look(self, spec: EvolutionRunSpec) -> Sight:
        """What the operator can see of the documents and the evaluation set of a run."""
        documents, evaluation = await asyncio.gather(
            self._digest("documents", spec.documents.uri, spec.documents.revision),
            self._digest("evaluation", spec.evaluation.uri, spec.evaluation.revision),
        )
        hidden = [part for part in (documents, evaluation) if isinstance(part, _Hidden)]
        return Sight(
            documents=documents if isinstance(documents, str) else "",
            evaluation=evaluation if isinstance(evaluation, str) else "",
            # What somebody has to do something about comes first.
            reason=min((part.reason for part in hidden), default="", key=lambda reason: reason == UNAVAILABLE),
            message="; ".join(part.message for part in hidden),
        )

    async def _digest(self, field: str, uri: str, revision: str) -> "str | _Hidden":
        where = f"spec.runTemplate.spec.{field}.uri"
        asked = asyncio.get_running_loop().run_in_executor(self._threads, visible_revision, uri)
        try:
            async with asyncio.timeout(LONGEST_SECONDS):
                return sha256(canonical_json([uri, revision, await asked]))[:DIGITS]
        except TimeoutError:
            return _Hidden(UNAVAILABLE, f"{where}: {uri} could not be listed within {LONGEST_SECONDS:g} s")
        except StoreUnavailable as error:
            return _Hidden(UNAVAILABLE, f"{where}: {error}")
        except (SourceUnusable, StoreError) as error:
            return _Hidden("SourcesNotVisible", f"the operator cannot look at {where}: {error}")


class _Hidden:
    def __init__(self, reason: str, message: str) -> None:
        self.reason, self.message = reason, message
