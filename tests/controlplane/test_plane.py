"""The control plane behaves like any other."""

import json
from typing import Any

import pytest
from controlplane.client import Api, ApiError, object_path
from controlplane.plane import ControlPlane
from controlplane.waiting import eventually

pytestmark = pytest.mark.controlplane


def config_map(name: str, owner: dict[str, Any] | None = None) -> dict[str, Any]:
    references = []
    if owner:
        meta = owner["metadata"]
        references = [{"apiVersion": "v1", "kind": "ConfigMap", "name": meta["name"], "uid": meta["uid"]}]
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "ownerReferences": references},
        "data": {"key": name},
    }


def names(api: Api, plural: str, namespace: str) -> set[str]:
    return {item["metadata"]["name"] for item in api.get(object_path(plural, namespace=namespace))["items"]}


def test_a_user_may_do_only_what_a_role_says(control_plane: ControlPlane, namespace: str) -> None:
    reader = Api(control_plane.kubeconfig_for("reader", ("readers",)))
    maps = object_path("configmaps", namespace=namespace)
    with pytest.raises(ApiError, match='"reader" cannot list resource "configmaps"'):
        reader.get(maps)
    control_plane.kubectl("create", "role", "read", "--verb=list", "--resource=configmaps", "-n", namespace)
    control_plane.kubectl("create", "rolebinding", "read", "--role=read", "--group=readers", "-n", namespace)
    assert eventually(lambda: reader.get(maps)["items"])
    with pytest.raises(ApiError, match="cannot create"):
        reader.create(maps, config_map("mine"))


def test_a_service_account_is_known_by_its_token(control_plane: ControlPlane, namespace: str) -> None:
    account = control_plane.service_account_kubeconfig(namespace, "default")
    who = control_plane.kubectl("--kubeconfig", str(account), "auth", "whoami", "-o", "json")
    assert json.loads(who)["status"]["userInfo"]["username"] == f"system:serviceaccount:{namespace}:default"


def test_what_an_object_owns_goes_with_it(control_plane: ControlPlane, namespace: str) -> None:
    api = control_plane.api
    maps = object_path("configmaps", namespace=namespace)
    owner = api.create(maps, config_map("owner"))
    api.create(maps, config_map("owned", owner))
    api.create(maps, config_map("other"))
    api.delete(f"{maps}/owner")
    eventually(lambda: names(api, "configmaps", namespace) == {"other", "kube-root-ca.crt"}, "garbage collection")


def test_components_restart_without_losing_anything(control_plane: ControlPlane, namespace: str) -> None:
    maps = object_path("configmaps", namespace=namespace)
    control_plane.api.create(maps, config_map("before"))
    control_plane.restart("etcd")
    control_plane.restart("kube-apiserver")
    eventually(lambda: "before" in names(control_plane.api, "configmaps", namespace))
    # Controllers find back, too: a new namespace gets its service account from one.
    control_plane.kubectl("create", "namespace", f"{namespace}-after")
    eventually(lambda: names(control_plane.api, "serviceaccounts", f"{namespace}-after") == {"default"})
