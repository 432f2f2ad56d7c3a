"""Lists in chunks that belong to one version, and watches."""

import asyncio
import base64
import json
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

from fakeapi.errors import StatusError, bad_request, expired
from fakeapi.kinds import Body, Resource
from fakeapi.selection import Match, selection
from fakeapi.storage import Change, ChangeType, Revision, Storage, encode

Query = Mapping[str, str]

SNAPSHOTS = 256
"""Lists begun whose remaining chunks can still be had."""


class Lister:
    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self._snapshots: OrderedDict[tuple[str, str, int], list[Revision]] = OrderedDict()

    def forget_snapshots(self) -> None:
        """As compaction does: a list that was begun cannot be continued."""
        self._snapshots.clear()

    def chunk(self, resource: Resource, namespace: str, query: Query) -> bytes:
        match = selection(resource, query.get("labelSelector", ""), query.get("fieldSelector", ""))
        limit = int(query.get("limit") or 0)
        wanted = int(query.get("resourceVersion") or 0)
        if wanted > self.storage.version:
            message = f"Too large resource version: {wanted}, current: {self.storage.version}"
            raise StatusError(504, "Timeout", message, retryAfterSeconds=1)
        if token := query.get("continue"):
            version, start, revisions = self._continued(resource, namespace, token)
        else:
            version, start = self.storage.version, 0
            revisions = sorted(
                (
                    revision
                    for key, revision in self.storage.tables[resource].objects.items()
                    if not namespace or key.namespace == namespace
                ),
                key=lambda revision: revision.key,
            )
            if limit and len(revisions) > limit:
                self._keep((resource.qualified, namespace, version), revisions)
        end, page = _page(revisions, start, limit, match)
        metadata: Body = {"resourceVersion": str(version)}
        if end < len(revisions):
            metadata["continue"] = base64.urlsafe_b64encode(encode([version, end])).decode()
            if match is None:
                metadata["remainingItemCount"] = len(revisions) - end
        head = encode({"kind": f"{resource.kind}List", "apiVersion": resource.api_version, "metadata": metadata})
        return head[:-1] + b',"items":[' + b",".join(revision.raw_item for revision in page) + b"]}"

    def _continued(self, resource: Resource, namespace: str, token: str) -> tuple[int, int, list[Revision]]:
        try:
            version, start = json.loads(base64.urlsafe_b64decode(token))
        except ValueError:
            raise bad_request(f"continue key is not valid: {token}") from None
        kept = self._snapshots.get((resource.qualified, namespace, version))
        if kept is None:
            raise expired("The provided continue parameter is too old to display a consistent list result.")
        return version, start, kept

    def _keep(self, key: tuple[str, str, int], revisions: list[Revision]) -> None:
        self._snapshots[key] = revisions
        while len(self._snapshots) > SNAPSHOTS:
            self._snapshots.popitem(last=False)


def _page(revisions: list[Revision], start: int, limit: int, match: Match | None) -> tuple[int, list[Revision]]:
    page: list[Revision] = []
    position = start
    while position < len(revisions) and not (limit and len(page) == limit):
        revision = revisions[position]
        if match is None or match(revision.body):
            page.append(revision)
        position += 1
    return position, page


@dataclass(frozen=True, slots=True)
class Watch:
    """One watch request."""

    storage: Storage
    resource: Resource
    namespace: str
    query: Query
    bookmark_seconds: float

    async def lines(self) -> AsyncIterator[bytes]:
        """Events as JSON lines until `timeoutSeconds` are over, or until an ERROR event."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + float(self.query.get("timeoutSeconds") or 1800)
        bookmarks = self.query.get("allowWatchBookmarks") in ("true", "1")
        match = selection(self.resource, self.query.get("labelSelector", ""), self.query.get("fieldSelector", ""))
        table = self.storage.tables[self.resource]
        start = int(self.query.get("resourceVersion") or 0)
        initial = self.query.get("sendInitialEvents") == "true"
        try:
            if start and not initial:
                position = table.position_after(start)
            else:
                position = table.dropped + len(table.changes)
                version = self.storage.version
                first = [
                    _line("ADDED", revision)
                    for revision in table.objects.values()
                    if self._in_namespace(revision) and (match is None or match(revision.body))
                ]
                if initial and bookmarks:
                    first.append(self._bookmark(version, {"k8s.io/initial-events-end": "true"}))
                if first:
                    yield b"".join(first)
            while True:
                pulse = table.pulse
                changes = table.changes_from(position)
                position += len(changes)
                if lines := b"".join(line for change in changes if (line := self._seen(change, match))):
                    yield lines
                left = ends - loop.time()
                try:
                    await asyncio.wait_for(pulse.wait(), max(0.0, min(left, self.bookmark_seconds)))
                except TimeoutError:
                    if bookmarks:
                        yield self._bookmark(self.storage.version, {})
                    if left <= self.bookmark_seconds:
                        return
        except StatusError as error:
            yield encode({"type": "ERROR", "object": error.body}) + b"\n"

    def _in_namespace(self, revision: Revision) -> bool:
        return not self.namespace or revision.key.namespace == self.namespace

    def _seen(self, change: Change, match: Match | None) -> bytes:
        """The event as this watch sees it: an object that is no longer selected is DELETED."""
        if not self._in_namespace(change.revision):
            return b""
        if match is None:
            return _line(change.type, change.revision)
        before = change.before is not None and match(change.before.body)
        after = change.type != "DELETED" and match(change.revision.body)
        if after:
            return _line("MODIFIED" if before else "ADDED", change.revision)
        if not before or change.before is None:
            return b""
        body = change.before.body
        metadata = {**body["metadata"], "resourceVersion": str(change.version)}
        return _line("DELETED", Revision(self.resource, {**body, "metadata": metadata}))

    def _bookmark(self, version: int, annotations: Body) -> bytes:
        metadata: Body = {"resourceVersion": str(version), "creationTimestamp": None}
        if annotations:
            metadata["annotations"] = annotations
        body = {"kind": self.resource.kind, "apiVersion": self.resource.api_version, "metadata": metadata}
        return encode({"type": "BOOKMARK", "object": body}) + b"\n"


def _line(type_: ChangeType, revision: Revision) -> bytes:
    return b'{"type":"' + type_.encode() + b'","object":' + revision.raw + b"}\n"
