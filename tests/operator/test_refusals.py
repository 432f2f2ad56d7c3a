"""Runs that cannot be: whatever gets past the API server, the operator says in the run what is wrong, and goes on.

The API server here knows schemas but no CEL rules, as one whose CRDs are older than the operator.
"""

from pathlib import Path
from typing import Any

import pytest
from api_mistakes import WRONG_RUNS
from api_objects import run
from fakeapi.client import ApiError, Client
from fakeapi.kinds import NAMESPACES, RUNS
from fakeapi.server import FakeApi
from operator_process import running_operator

MISTAKES = [(changes, said) for changes, said in WRONG_RUNS if not said[0].startswith("unknown field")]
"""Unknown fields are pruned, unless the client asks for strictness, as kubectl does."""


@pytest.mark.slow
def test_every_wrong_run_is_refused_or_says_what_is_wrong_and_none_disturbs_the_operator(tmp_path: Path) -> None:
    with FakeApi() as api:
        kubeconfig = tmp_path / "kubeconfig"
        api.write_kubeconfig(kubeconfig)
        client = api.client
        refused = 0
        with running_operator(kubeconfig, (tmp_path / "store").as_uri(), tmp_path) as operator:
            created: dict[str, list[str]] = {}
            for number, (changes, said) in enumerate(MISTAKES):
                namespace = f"wrong-{number}"  # one each: a wrong name is among the mistakes
                client.create(NAMESPACES, {"metadata": {"name": namespace}}, "")
                body = run(changes)
                body["metadata"].pop("namespace")
                try:
                    client.create(RUNS, body, namespace)
                except ApiError as error:
                    refused += error.code == 422
                else:
                    created[namespace] = said
            messages = {namespace: stalled(client, namespace) for namespace in created}
            assert "Traceback" not in operator.said
    assert refused + len(messages) == len(MISTAKES)
    assert len(messages) >= 10
    for namespace, message in messages.items():
        field = created[namespace][0].removeprefix("spec.")
        assert field.split(":")[0].split("[")[0] in message, (message, created[namespace])


def stalled(client: Client, namespace: str) -> str:
    """What the run's condition says, once it has one."""
    (found,) = client.items(RUNS, namespace)

    def told(body: dict[str, Any]) -> bool:
        return str(body.get("status", {}).get("summary", "")) == "Failed: InvalidSpec"

    body = client.until(RUNS, found["metadata"]["name"], told, namespace)
    conditions = {condition["type"]: condition for condition in body["status"]["conditions"]}
    assert (conditions["Stalled"]["status"], conditions["Accepted"]["status"]) == ("True", "False")
    assert body["status"]["observedGeneration"] == body["metadata"]["generation"]
    return str(conditions["Accepted"]["message"])
