"""What a service account may do, as manifests grant it, as the API server decides it, and as it was made use of."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from controlplane.client import Api, Json

AUDIT_POLICY: Json = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived", "ResponseStarted"],
    "rules": [
        {"level": "None", "resources": [{"group": "authorization.k8s.io"}]},
        {"level": "Metadata", "userGroups": ["system:serviceaccounts"]},
        {"level": "None"},
    ],
}
"""Every request of a service account, except its questions what it may do; a watch once it has ended."""
BEYOND_REQUESTS = [
    ("impersonate", "", "users"),
    ("impersonate", "", "groups"),
    ("impersonate", "", "serviceaccounts"),
    *((verb, "rbac.authorization.k8s.io", kind) for verb in ("bind", "escalate") for kind in ("roles", "clusterroles")),
    *((verb, "certificates.k8s.io", "signers") for verb in ("approve", "sign")),
    *((verb, "selfevolution.io", "evolutionruns/finalizers") for verb in ("update", "patch")),
    *((verb, "kueue.x-k8s.io", "workloads") for verb in ("get", "list", "watch", "create", "patch", "delete")),
]
"""Rights that go with no request of their own, and what discovery does not list."""


class Grant(NamedTuple):
    """A right that RBAC can give: resource may have a subresource, as `pods/log`."""

    verb: str
    group: str
    resource: str


class Asked(NamedTuple):
    """A request that was made."""

    grant: Grant
    namespace: str
    """Empty for a cluster-wide one."""
    allowed: bool


def granted(objects: Iterable[Json], kind: str) -> set[Grant]:
    """By the rules of the Roles or ClusterRoles among some manifests."""
    return {
        Grant(verb, group, resource)
        for object_ in objects
        if object_["kind"] == kind
        for rule in object_["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def manifests(folder: Path, namespace: str = "") -> list[Json]:
    """All objects of a folder, in the order in which kubectl applies them; `namespace` takes the place of team-a."""
    texts = [file.read_text() for file in sorted(folder.glob("*.yaml"))]
    return [
        object_
        for text in texts
        for object_ in yaml.safe_load_all(text.replace("team-a", namespace) if namespace else text)
    ]


def as_list(objects: Iterable[Json]) -> str:
    """One manifest for `kubectl apply --filename=-`."""
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})


def served(api: Api) -> set[Grant]:
    """Everything that can be asked of this API server: each verb of each resource and subresource that it knows."""
    groups = [("", "/api/v1")]
    groups += [
        (group["name"], f"/apis/{group['preferredVersion']['groupVersion']}") for group in api.get("/apis")["groups"]
    ]
    return {
        Grant(verb, group, resource["name"])
        for group, path in groups
        for resource in api.get(path)["resources"]
        for verb in resource["verbs"]
    } | {Grant(*right) for right in BEYOND_REQUESTS}


def allowed(account: Api, grants: Iterable[Grant], namespace: str) -> set[Grant]:
    """Those of the rights that an account has in a namespace, or in all if `namespace` is empty: it asks for itself."""
    return {grant for grant in grants if may(account, grant, namespace)}


def may(account: Api, grant: Grant, namespace: str) -> bool:
    resource, _, subresource = grant.resource.partition("/")
    attributes = {"verb": grant.verb, "group": grant.group, "resource": resource, "subresource": subresource}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {**attributes, "namespace": namespace}},
    }
    answer = account.create("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)
    return bool(answer["status"]["allowed"])


class Audit:
    """The audit log of an API server that follows AUDIT_POLICY."""

    def __init__(self, folder: Path) -> None:
        self._log = folder / "audit.log"
        self._policy = folder / "audit-policy.json"
        self._policy.write_text(json.dumps(AUDIT_POLICY))

    @property
    def flags(self) -> dict[str, object]:
        """Of the API server."""
        return {"audit-policy-file": self._policy, "audit-log-path": self._log, "audit-log-maxsize": 100}

    def asked(self, namespace: str, account: str) -> set[Asked]:
        """What a service account has asked for, apart from paths that are no resources."""
        user = f"system:serviceaccount:{namespace}:{account}"
        return {_asked(event) for event in self._events() if event["user"]["username"] == user and "objectRef" in event}

    def _events(self) -> Iterator[dict[str, Any]]:
        for line in self._log.read_text().splitlines():
            yield json.loads(line)


def _asked(event: dict[str, Any]) -> Asked:
    about = event["objectRef"]
    resource = "/".join(filter(None, [about["resource"], about.get("subresource")]))
    grant = Grant(event["verb"], about.get("apiGroup", ""), resource)
    decision = event["annotations"].get("authorization.k8s.io/decision")
    return Asked(grant, about.get("namespace", ""), decision == "allow")
