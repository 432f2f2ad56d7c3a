"""The API server behind a few methods on plain dicts, with errors that say what a caller can do about them."""

import json
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import quote, urlencode

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.client.rest import RESTClientObject
from yaml import YAMLError

REQUEST_SECONDS = 30.0
CHUNK = 500
"""Objects per page of a list."""
_TIMEOUT = aiohttp.ClientTimeout(total=REQUEST_SECONDS, sock_connect=5.0)
_AUTH = ["BearerToken"]
_JSON = "application/json"
_MERGE_PATCH = "application/merge-patch+json"

Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind of object by its path in the API."""

    root: str
    """`api/v1` or `apis/<group>/<version>`."""
    plural: str
    kind: str
    namespaced: bool = True

    def path(self, namespace: str | None, name: str = "", sub: str = "") -> str:
        scope = ["namespaces", quote(namespace)] if self.namespaced and namespace else []
        return "/" + "/".join(filter(None, [self.root, *scope, self.plural, quote(name), sub]))


RUNS = Resource("apis/selfevolution.io/v1alpha1", "evolutionruns", "EvolutionRun")
SCHEDULES = Resource("apis/selfevolution.io/v1alpha1", "evolutionschedules", "EvolutionSchedule")
RUNTIMES = Resource("apis/selfevolution.io/v1alpha1", "evolutionruntimes", "EvolutionRuntime")
CLUSTER_RUNTIMES = Resource(
    "apis/selfevolution.io/v1alpha1", "clusterevolutionruntimes", "ClusterEvolutionRuntime", namespaced=False
)
JOBS = Resource("apis/batch/v1", "jobs", "Job")
JOBSETS = Resource("apis/jobset.x-k8s.io/v1alpha2", "jobsets", "JobSet")
PODS = Resource("api/v1", "pods", "Pod")
EVENTS = Resource("apis/events.k8s.io/v1", "events", "Event")
LEASES = Resource("apis/coordination.k8s.io/v1", "leases", "Lease")


class GatewayError(Exception):
    """A request to the API server did not do what it should."""


class NotFound(GatewayError):
    """No such object, or no such kind of object."""


class AlreadyExists(GatewayError):
    """An object of that name exists."""


class Conflict(GatewayError):
    """The object is not the one, or not the version, that the request was made for."""


class Forbidden(GatewayError):
    """The operator's account may not do that."""


class Invalid(GatewayError):
    """The API server refuses the object or the request as it is."""


class Unavailable(GatewayError):
    """The API server cannot be reached, is too slow or too busy: the same request may work later."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds that the server asks to wait."""


class NoAccess(Exception):
    """There is neither a service account nor a usable kubeconfig."""


class Page(NamedTuple):
    """Part of a list."""

    items: list[Body]
    resource_version: str
    """Version of the whole list: what it lacks and is not newer is gone."""


async def cluster_access() -> Configuration:
    """How to reach the API server: the pod's service account, else the kubeconfig.

    :raises NoAccess: if there is neither, or the kubeconfig is of no use.
    """
    access = Configuration()
    # Straight to the server, as kopf does; a kubeconfig may name a proxy. Reading ~/.netrc costs a thread per request.
    access.client_session_kwargs = {"trust_env": False}
    if os.environ.get("KUBERNETES_SERVICE_HOST") and not os.environ.get("KUBECONFIG"):
        try:
            config.load_incluster_config(client_configuration=access)  # type: ignore[no-untyped-call]
        except config.ConfigException as error:
            raise NoAccess(f"the pod's service account cannot be used: {error}") from error
        return access
    path = os.environ.get("KUBECONFIG") or str(Path("~/.kube/config").expanduser())
    if not any(Path(part).is_file() for part in path.split(os.pathsep)):
        raise NoAccess(f"no cluster: not in a pod, and there is no kubeconfig {path}")
    try:
        await config.load_kube_config(  # type: ignore[no-untyped-call]
            config_file=path, client_configuration=access, persist_config=False
        )
    except (config.ConfigException, YAMLError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        why = " ".join(str(error).split())
        raise NoAccess(f"no cluster: not in a pod, and the kubeconfig {path} cannot be used: {why}") from error
    return access


class _Connections(RESTClientObject):
    """Connections that outlast the pauses between requests: a TLS handshake costs more than the request."""

    def _create_connector(self) -> aiohttp.TCPConnector:
        return aiohttp.TCPConnector(limit=self.maxsize, ssl=self.ssl_context, keepalive_timeout=60)


class Gateway:
    """One per process: connections are kept open and shared by all requests."""

    def __init__(self, access: Configuration) -> None:
        self._client = ApiClient(access)
        self._client.rest_client = _Connections(access)
        self.server: str = access.host
        self.requests: Counter[tuple[str, str, int]] = Counter()
        """Answered requests by verb, plural and status code; 0 where no answer came."""

    @classmethod
    async def connect(cls) -> Self:
        """:raises NoAccess: if the process has no access to a cluster."""
        return cls(await cluster_access())

    async def close(self) -> None:
        await self._client.close()  # type: ignore[no-untyped-call]

    async def list(self, resource: Resource, namespace: str | None = None, selector: str = "") -> AsyncIterator[Body]:
        """Every object of a kind, in one namespace or in all, with these labels."""
        async for page in self.pages(resource, namespace, selector):
            for item in page.items:
                yield item

    async def pages(
        self, resource: Resource, namespace: str | None = None, selector: str = "", limit: int = CHUNK
    ) -> AsyncIterator[Page]:
        """The same in chunks, each with the version of the list."""
        query = {"limit": str(limit)} | ({"labelSelector": selector} if selector else {})
        path = resource.path(namespace)
        token = ""
        while True:
            full = query | ({"continue": token} if token else {})
            answer = await self._request("list", resource, "GET", f"{path}?{urlencode(full)}")
            meta = answer.get("metadata") or {}
            yield Page(answer.get("items") or [], meta.get("resourceVersion", ""))
            token = meta.get("continue", "")
            if not token:
                return

    async def get(self, resource: Resource, namespace: str | None, name: str) -> Body | None:
        """The object, or None if there is none."""
        try:
            return await self._request("get", resource, "GET", resource.path(namespace, name))
        except NotFound:
            return None

    async def create(
        self,
        resource: Resource,
        namespace: str | None,
        body: Mapping[str, Any],
        warned: Callable[[str], None] = lambda _warning: None,
    ) -> Body:
        """The object as created; `warned` is told what the API server has to say about it.

        :raises AlreadyExists: if there is one of that name.
        """
        return await self._request("create", resource, "POST", resource.path(namespace), body, warned=warned)

    async def delete(self, resource: Resource, namespace: str | None, name: str, uid: str) -> bool:
        """Delete the object with this uid, and in the background what it owns; False if it is no longer there."""
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
            "preconditions": {"uid": uid},
        }
        try:
            await self._request("delete", resource, "DELETE", resource.path(namespace, name), options)
        except (NotFound, Conflict):
            return False
        return True

    async def patch_status(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        patch: Mapping[str, Any],
        resource_version: str,
    ) -> Body:
        """Merge `patch` (the whole object's shape: `{"status": …}`) into the status of exactly this version.

        :raises Conflict: if the object has changed since.
        """
        metadata = {**patch.get("metadata", {}), "resourceVersion": resource_version}
        path = resource.path(namespace, name, "status")
        return await self._request("patch", resource, "PATCH", path, {**patch, "metadata": metadata}, _MERGE_PATCH)

    async def _request(
        self,
        verb: str,
        resource: Resource,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        content_type: str = _JSON,
        warned: Callable[[str], None] = lambda _warning: None,
    ) -> Body:
        what = f"{verb} {path.partition('?')[0]}"
        code = 0
        try:
            # The body goes around the client's own serialisation, which walks every dict once more.
            method, url, headers, *_ = await self._client.param_serialize(
                method, path, header_params={"Accept": _JSON, "Content-Type": content_type}, auth_settings=_AUTH
            )
            response = await self._client.call_api(method, url, headers, body, _request_timeout=_TIMEOUT)
            code = response.status
            data = await response.read()  # type: ignore[no-untyped-call]
        except TimeoutError as error:
            raise Unavailable(f"{what}: no answer from {self.server} within {REQUEST_SECONDS:g} s") from error
        except aiohttp.ClientError as error:
            raise Unavailable(f"{what}: {self.server} cannot be reached: {error}") from error
        finally:
            self.requests[verb, resource.plural, code] += 1
        if code >= HTTPStatus.BAD_REQUEST:
            raise _error(what, code, data, response.headers.get("Retry-After", ""))
        for warning in response.headers.getall("Warning", ()):
            # 299 - "text", with its quotation marks escaped
            warned(warning.partition('"')[2].rstrip('"').replace('\\"', '"'))
        try:
            answer = json.loads(data)
        except ValueError as error:
            raise Unavailable(f"{what}: the answer of {self.server} is not JSON") from error
        return answer if isinstance(answer, dict) else {}


def _error(what: str, code: int, data: bytes, retry_after: str) -> GatewayError:
    status: dict[str, Any] = {}
    try:
        parsed = json.loads(data)
        status = parsed if isinstance(parsed, dict) else {}
    except ValueError:
        pass
    text = str(status.get("message") or data[:200].decode(errors="replace").strip() or f"HTTP {code}")
    message = f"{what}: {text}"
    match code:
        case HTTPStatus.NOT_FOUND:
            return NotFound(message)
        case HTTPStatus.CONFLICT if status.get("reason") == "AlreadyExists":
            return AlreadyExists(message)
        case HTTPStatus.CONFLICT:
            return Conflict(message)
        case HTTPStatus.UNAUTHORIZED:
            return Forbidden(f"{what}: the API server does not accept the operator's credentials: {text}")
        case HTTPStatus.FORBIDDEN:
            return Forbidden(message)
        case HTTPStatus.GONE:
            return Unavailable(f"{what}: the list changed too much while it was read: {text}")
        case HTTPStatus.TOO_MANY_REQUESTS | HTTPStatus.REQUEST_TIMEOUT:
            return Unavailable(message, _seconds(retry_after, status))
    if code >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return Unavailable(message, _seconds(retry_after, status))
    return Invalid(message)


def _seconds(retry_after: str, status: Mapping[str, Any]) -> float | None:
    if retry_after.isdigit():
        return float(retry_after)
    details = status.get("details")
    seconds = details.get("retryAfterSeconds") if isinstance(details, dict) else None
    return float(seconds) if isinstance(seconds, int) else None
