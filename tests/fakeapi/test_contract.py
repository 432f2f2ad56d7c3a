"""What the operator relies on in an API server and its Job controller: the same on the fake one and on a real one."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from simulated import MINIMAL

from fakeapi.bodies import POLICY, job, run
from fakeapi.client import ApiError
from fakeapi.conftest import ApiServer
from fakeapi.kinds import JOBS, PODS, RUNS, Body
from fakeapi.kubelet import Fate


def conditions(body: Body) -> dict[str, str]:
    """Reasons of the conditions that hold, in the order in which they stand."""
    found = body.get("status", {}).get("conditions") or []
    return {condition["type"]: condition["reason"] for condition in found if condition["status"] == "True"}


def has(condition: str) -> Any:
    return lambda body: condition in conditions(body)


def version(body: Body) -> str:
    found: str = body["metadata"]["resourceVersion"]
    return found


def since(api: ApiServer, listed: Body, resource: Any = JOBS, **query: str) -> Iterator[tuple[str, Body]]:
    return api.client.watch(resource, api.namespace, resourceVersion=version(listed), **query)


def test_a_name_is_taken_once(api: ApiServer) -> None:
    made = api.client.create(JOBS, job(suspend=True), api.namespace)
    with pytest.raises(ApiError) as refused:
        api.client.create(JOBS, job(suspend=True), api.namespace)
    assert (refused.value.code, refused.value.reason) == (409, "AlreadyExists")
    assert api.client.get(JOBS, "job", api.namespace)["metadata"]["uid"] == made["metadata"]["uid"]


def test_what_is_not_there_is_not_found(api: ApiServer) -> None:
    attempts: list[Callable[[], Body]] = [
        lambda: api.client.get(RUNS, "none", api.namespace),
        lambda: api.client.patch(RUNS, "none", {"status": {}}, api.namespace, "status"),
        lambda: api.client.delete(RUNS, "none", api.namespace),
        lambda: api.client.create(RUNS, run(), "no-such-namespace"),
    ]
    for attempt in attempts:
        with pytest.raises(ApiError) as refused:
            attempt()
        assert (refused.value.code, refused.value.reason) == (404, "NotFound")


def test_status_and_spec_are_written_apart(api: ApiServer) -> None:
    made = api.client.create(RUNS, run() | {"status": {"state": "Failed"}}, api.namespace)
    assert "status" not in made
    assert made["metadata"]["generation"] == 1

    both = {"spec": {"rounds": 9}, "status": {"state": "Running"}}
    status = api.client.patch(RUNS, "run", both, api.namespace, "status")
    assert (status["spec"]["rounds"], status["status"]["state"]) == (3, "Running")
    assert status["metadata"]["generation"] == 1

    spec = api.client.patch(RUNS, "run", both | {"status": {"state": "Failed"}}, api.namespace)
    assert (spec["spec"]["rounds"], spec["status"]["state"]) == (9, "Running")
    assert spec["metadata"]["generation"] == 2

    labelled = api.client.patch(RUNS, "run", {"metadata": {"labels": {"a": "b"}}}, api.namespace)
    assert labelled["metadata"]["generation"] == 2


def test_defaults_are_filled_in_and_unknown_fields_are_pruned(api: ApiServer) -> None:
    made = api.client.create(RUNS, {"metadata": {"name": "run"}, "spec": MINIMAL | {"nonsense": 1}}, api.namespace)
    assert made["spec"]["runtimeRef"] == {"kind": "ClusterEvolutionRuntime", "name": "default"}
    assert "nonsense" not in made["spec"]


def test_a_wrong_type_is_refused(api: ApiServer) -> None:
    api.client.create(RUNS, run(), api.namespace)
    with pytest.raises(ApiError) as refused:
        api.client.patch(RUNS, "run", {"spec": {"rounds": "many"}}, api.namespace)
    assert (refused.value.code, refused.value.reason) == (422, "Invalid")


def test_a_write_for_an_old_version_is_a_conflict(api: ApiServer) -> None:
    old = api.client.create(RUNS, run(), api.namespace)
    new = api.client.patch(RUNS, "run", {"spec": {"rounds": 4}}, api.namespace)
    guarded = {"metadata": {"resourceVersion": version(old)}, "status": {"state": "Running"}}
    with pytest.raises(ApiError) as refused:
        api.client.patch(RUNS, "run", guarded, api.namespace, "status")
    assert (refused.value.code, refused.value.reason) == (409, "Conflict")
    with pytest.raises(ApiError, match="the object has been modified"):
        api.client.update(RUNS, old)
    guarded["metadata"]["resourceVersion"] = version(new)
    assert api.client.patch(RUNS, "run", guarded, api.namespace, "status")["status"]["state"] == "Running"


def test_a_write_that_changes_nothing_keeps_the_version_and_sends_no_event(api: ApiServer) -> None:
    api.client.create(RUNS, run(), api.namespace)
    patch = {"status": {"state": "Running"}}
    first = api.client.patch(RUNS, "run", patch, api.namespace, "status")
    listed = api.client.page(RUNS, api.namespace)
    assert version(api.client.patch(RUNS, "run", patch, api.namespace, "status")) == version(first)
    assert version(api.client.patch(RUNS, "run", {"spec": {"rounds": 3}}, api.namespace)) == version(first)
    api.client.patch(RUNS, "run", {"spec": {"rounds": 5}}, api.namespace)
    _, seen = next(since(api, listed, RUNS))
    assert seen["spec"]["rounds"] == 5


def test_a_merge_patch_removes_with_null_and_replaces_lists(api: ApiServer) -> None:
    api.client.create(RUNS, run(labels={"a": "1", "b": "2"}), api.namespace)
    patched = api.client.patch(RUNS, "run", {"metadata": {"labels": {"a": None}}}, api.namespace)
    assert patched["metadata"]["labels"] == {"b": "2"}
    for rounds in ([{"round": 1}, {"round": 2}], [{"round": 3}]):
        body = api.client.patch(RUNS, "run", {"status": {"rounds": rounds}}, api.namespace, "status")
        assert [entry["round"] for entry in body["status"]["rounds"]] == [entry["round"] for entry in rounds]
    cleared = api.client.patch(RUNS, "run", {"status": {"rounds": None}}, api.namespace, "status")
    assert not cleared["status"].get("rounds")


def test_a_json_patch_is_applied_only_if_its_test_holds(api: ApiServer) -> None:
    api.client.create(RUNS, run(), api.namespace)
    change = [{"op": "test", "path": "/spec/rounds", "value": 3}, {"op": "replace", "path": "/spec/rounds", "value": 4}]
    assert api.client.patch(RUNS, "run", change, api.namespace)["spec"]["rounds"] == 4
    with pytest.raises(ApiError) as refused:
        api.client.patch(RUNS, "run", change, api.namespace)
    assert (refused.value.code, refused.value.reason) == (422, "Invalid")


def test_a_dry_run_stores_nothing(api: ApiServer) -> None:
    api.client.create(RUNS, run(), api.namespace, dryRun="All")
    assert api.client.items(RUNS, api.namespace) == []


def test_a_delete_for_another_uid_is_a_conflict(api: ApiServer) -> None:
    made = api.client.create(RUNS, run(), api.namespace)
    with pytest.raises(ApiError) as refused:
        api.client.delete(RUNS, "run", api.namespace, preconditions={"uid": "of-another"})
    assert (refused.value.code, refused.value.reason) == (409, "Conflict")
    api.client.delete(RUNS, "run", api.namespace, preconditions={"uid": made["metadata"]["uid"]})
    api.client.until_gone(RUNS, "run", api.namespace)


def test_a_finalizer_holds_a_deleted_object(api: ApiServer) -> None:
    api.client.create(RUNS, run(finalizers=["selfevolution.io/test"]), api.namespace)
    api.client.delete(RUNS, "run", api.namespace)
    assert api.client.get(RUNS, "run", api.namespace)["metadata"]["deletionTimestamp"]
    api.client.patch(RUNS, "run", {"metadata": {"finalizers": None}}, api.namespace)
    api.client.until_gone(RUNS, "run", api.namespace)


def test_a_list_in_chunks_belongs_to_one_version(api: ApiServer) -> None:
    for number in range(5):
        api.client.create(RUNS, run(f"run-{number}"), api.namespace)
    first = api.client.page(RUNS, api.namespace, limit="2")
    api.client.delete(RUNS, "run-3", api.namespace)
    api.client.create(RUNS, run("run-9"), api.namespace)
    chunks, names = first, [item["metadata"]["name"] for item in first["items"]]
    while token := chunks["metadata"].get("continue"):
        chunks = api.client.page(RUNS, api.namespace, limit="2", **{"continue": token})
        assert version(chunks) == version(first)
        names += [item["metadata"]["name"] for item in chunks["items"]]
    assert names == [f"run-{number}" for number in range(5)]


def test_items_of_built_in_lists_do_not_say_their_kind(api: ApiServer) -> None:
    api.client.create(RUNS, run(), api.namespace)
    api.client.create(JOBS, job(suspend=True), api.namespace)
    assert api.client.items(RUNS, api.namespace)[0]["kind"] == "EvolutionRun"
    assert "kind" not in api.client.items(JOBS, api.namespace)[0]


def test_labels_and_fields_select(api: ApiServer) -> None:
    for name, color in (("a", "red"), ("b", "blue"), ("c", "")):
        api.client.create(RUNS, run(name, labels={"color": color} if color else {}), api.namespace)
    expected = {
        "color=red": "a",
        "color!=red": "bc",
        "color": "ab",
        "!color": "c",
        "color in (red, blue)": "ab",
        "color notin (red)": "bc",
        "color,color!=blue": "a",
    }
    for selector, names in expected.items():
        found = api.client.items(RUNS, api.namespace, labelSelector=selector)
        assert "".join(item["metadata"]["name"] for item in found) == names, selector
    found = api.client.items(RUNS, api.namespace, fieldSelector="metadata.name=b")
    assert [item["metadata"]["name"] for item in found] == ["b"]


def test_a_watch_resumes_after_a_version(api: ApiServer) -> None:
    api.client.create(RUNS, run("before"), api.namespace)
    listed = api.client.page(RUNS, api.namespace)
    api.client.create(RUNS, run("after"), api.namespace)
    api.client.patch(RUNS, "before", {"spec": {"rounds": 4}}, api.namespace)
    api.client.delete(RUNS, "after", api.namespace)
    events = since(api, listed, RUNS)
    seen = [(type_, body["metadata"]["name"]) for type_, body in (next(events), next(events), next(events))]
    assert seen == [("ADDED", "after"), ("MODIFIED", "before"), ("DELETED", "after")]


def test_an_object_that_loses_its_label_is_deleted_to_a_watch_for_it(api: ApiServer) -> None:
    listed = api.client.page(JOBS, api.namespace)
    api.client.create(JOBS, job(labels={"ours": "yes", "more": "yes"}, suspend=True), api.namespace)
    api.client.create(JOBS, job("other", suspend=True), api.namespace)
    patched = api.client.patch(JOBS, "job", {"metadata": {"labels": {"ours": None}}}, api.namespace)
    events = since(api, listed, labelSelector="ours=yes")
    for type_, body in events:
        assert body["metadata"]["name"] == "job"
        if type_ == "DELETED":
            break
    assert type_ == "DELETED"
    assert body["metadata"]["labels"]["ours"] == "yes"
    assert version(body) == version(patched)


def test_a_job_without_labels_gets_those_of_its_template(api: ApiServer) -> None:
    api.client.create(JOBS, job(labels={"ours": "yes"}, suspend=True), api.namespace)
    patched = api.client.patch(JOBS, "job", {"metadata": {"labels": None}}, api.namespace)
    assert patched["metadata"]["labels"]["ours"] == "yes"


def test_bookmarks_say_how_far_a_silent_watch_is(api: ApiServer) -> None:
    listed = api.client.page(RUNS, api.namespace)
    api.client.create(RUNS, run(labels={"ours": "yes"}), api.namespace)
    watch = since(api, listed, RUNS, labelSelector="ours=yes", allowWatchBookmarks="true", timeoutSeconds="4")
    assert next(watch)[0] == "ADDED"
    other = api.client.create(RUNS, run("other"), api.namespace)
    type_, body = next(watch)
    assert type_ == "BOOKMARK"
    assert set(body) == {"kind", "apiVersion", "metadata"}
    assert int(version(body)) >= int(version(other))


def test_a_watch_from_a_forgotten_version_is_told_so(api: ApiServer) -> None:
    if api.compact is None:
        old = "1"
    else:
        old = version(api.client.create(RUNS, run(), api.namespace))
        api.client.patch(RUNS, "run", {"spec": {"rounds": 4}}, api.namespace)
        api.compact()
    try:
        type_, body = next(api.client.watch(RUNS, api.namespace, resourceVersion=old))
    except ApiError as error:
        type_, body = "ERROR", error.body
    assert type_ == "ERROR"
    assert (body["code"], body["reason"]) == (410, "Expired")


def test_a_job_succeeds_after_its_pod(api: ApiServer) -> None:
    owner = api.client.create(RUNS, run(), api.namespace)
    jobs, pods = api.client.page(JOBS, api.namespace), api.client.page(PODS, api.namespace)
    api.client.create(JOBS, job(owner=owner, labels={"ours": "yes"}), api.namespace)
    done = api.client.until(JOBS, "job", has("Complete"), api.namespace)
    assert list(conditions(done).items()) == [
        ("SuccessCriteriaMet", "CompletionsReached"),
        ("Complete", "CompletionsReached"),
    ]
    assert done["status"]["succeeded"] == 1
    assert done["status"]["completionTime"]
    for event, body in since(api, jobs):  # noqa: B007 - what it is at the break
        assert "Complete" not in conditions(body) or "SuccessCriteriaMet" in conditions(body)
        if "SuccessCriteriaMet" in conditions(body):
            break
    assert (event, list(conditions(body))) == ("MODIFIED", ["SuccessCriteriaMet"])
    for _, pod in since(api, pods, PODS, labelSelector="ours=yes,batch.kubernetes.io/job-name=job"):
        if pod["status"]["phase"] == "Succeeded":
            break
    assert int(version(pod)) < int(version(body))
    assert pod["metadata"]["ownerReferences"][0]["uid"] == done["metadata"]["uid"]
    assert pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 0


def test_an_indexed_job_numbers_its_pods(api: ApiServer) -> None:
    api.client.create(JOBS, job(completionMode="Indexed", completions=3, parallelism=3), api.namespace)
    done = api.client.until(JOBS, "job", has("Complete"), api.namespace)
    assert done["status"]["completedIndexes"] == "0-2"
    pods = api.client.items(PODS, api.namespace)
    index = "batch.kubernetes.io/job-completion-index"
    assert sorted(pod["metadata"]["annotations"][index] for pod in pods) == ["0", "1", "2"]
    assert all(pod["metadata"]["labels"][index] == pod["metadata"]["annotations"][index] for pod in pods)
    assert all(pod["metadata"]["name"].startswith(f"job-{pod['metadata']['labels'][index]}-") for pod in pods)


def test_an_exit_code_fails_the_job_at_once(api: ApiServer) -> None:
    api.fate(Fate(namespace=api.namespace, exit_code=41, message="bad input"))
    api.client.create(JOBS, job(podFailurePolicy=POLICY, backoffLimit=3), api.namespace)
    failed = api.client.until(JOBS, "job", has("Failed"), api.namespace)
    assert list(conditions(failed).items()) == [("FailureTarget", "PodFailurePolicy"), ("Failed", "PodFailurePolicy")]
    assert "failed with exit code 41 matching FailJob rule at index 2" in failed["status"]["conditions"][-1]["message"]
    (pod,) = api.client.items(PODS, api.namespace)
    assert pod["status"]["containerStatuses"][0]["state"]["terminated"]["message"] == "bad input"
    assert failed["status"]["failed"] == 1


def test_failures_count_to_the_limit(api: ApiServer) -> None:
    api.fate(Fate(namespace=api.namespace, exit_code=3))
    api.client.create(JOBS, job(podFailurePolicy=POLICY, backoffLimit=0), api.namespace)
    failed = api.client.until(JOBS, "job", has("Failed"), api.namespace)
    assert conditions(failed) == {"FailureTarget": "BackoffLimitExceeded", "Failed": "BackoffLimitExceeded"}


def test_failures_that_are_ignored_do_not_count(api: ApiServer) -> None:
    api.fate(Fate(job="evicted", namespace=api.namespace, evicted=True))
    api.fate(Fate(job="no-store", namespace=api.namespace, exit_code=43))
    for name in ("evicted", "no-store"):
        spec: Body = {"podFailurePolicy": POLICY, "backoffLimit": 0, "podReplacementPolicy": "Failed"}
        api.client.create(JOBS, job(name, **spec), api.namespace)
    for name in ("evicted", "no-store"):
        done = api.client.until(JOBS, name, has("Complete"), api.namespace)
        assert not done["status"].get("failed")


def test_a_deadline_can_be_lowered_on_a_running_job(api: ApiServer) -> None:
    api.fate(Fate(namespace=api.namespace, hang=True))
    api.client.create(JOBS, job(activeDeadlineSeconds=3600), api.namespace)
    api.client.until(JOBS, "job", lambda body: body["status"].get("ready") == 1, api.namespace)
    api.client.patch(JOBS, "job", {"spec": {"activeDeadlineSeconds": 1}}, api.namespace)
    failed = api.client.until(JOBS, "job", has("Failed"), api.namespace)
    assert conditions(failed) == {"FailureTarget": "DeadlineExceeded", "Failed": "DeadlineExceeded"}
    assert api.client.items(PODS, api.namespace, fieldSelector="status.phase=Running") == []


def test_a_job_is_suspended_and_resumed(api: ApiServer) -> None:
    api.fate(Fate(namespace=api.namespace, hang=True))
    api.client.create(JOBS, job(suspend=True), api.namespace)
    suspended = api.client.until(JOBS, "job", has("Suspended"), api.namespace)
    assert "startTime" not in suspended["status"]
    assert api.client.items(PODS, api.namespace) == []
    api.client.patch(JOBS, "job", {"spec": {"suspend": False}}, api.namespace)
    running = api.client.until(JOBS, "job", lambda body: body["status"].get("ready") == 1, api.namespace)
    (condition,) = running["status"]["conditions"]
    assert (condition["type"], condition["status"], condition["reason"]) == ("Suspended", "False", "JobResumed")
    api.client.patch(JOBS, "job", {"spec": {"suspend": True}}, api.namespace)
    again = api.client.until(JOBS, "job", has("Suspended"), api.namespace)
    assert conditions(again) == {"Suspended": "JobSuspended"}
    api.client.until(JOBS, "job", lambda body: not body["status"].get("active"), api.namespace)


def test_a_template_is_for_life(api: ApiServer) -> None:
    api.fate(Fate(namespace=api.namespace, hang=True))
    made = api.client.create(JOBS, job(), api.namespace)
    change = {"spec": {"template": {"spec": {"containers": [{"name": "worker", "image": "other"}]}}}}
    with pytest.raises(ApiError) as refused:
        api.client.patch(JOBS, "job", change, api.namespace)
    assert (refused.value.code, refused.value.reason) == (422, "Invalid")
    assert "field is immutable" in str(refused.value)
    assert made["spec"]["backoffLimit"] == 6


def test_a_deleted_job_takes_its_pods_along_only_when_told(api: ApiServer) -> None:
    for name, policy in (("alone", {}), ("with-pods", {"propagationPolicy": "Background"})):
        api.client.create(JOBS, job(name), api.namespace)
        api.client.until(JOBS, name, has("Complete"), api.namespace)
        api.client.delete(JOBS, name, api.namespace, **policy)
        api.client.until_gone(JOBS, name, api.namespace)
    deadline = time.monotonic() + 10
    left: set[str] = set()
    while time.monotonic() < deadline:
        left = {pod["metadata"]["labels"]["job-name"] for pod in api.client.items(PODS, api.namespace)}
        if left == {"alone"}:
            break
        time.sleep(0.02)
    assert left == {"alone"}


def test_what_a_run_owns_goes_with_it(api: ApiServer) -> None:
    # Last, since the garbage collector of a real cluster looks for new kinds every 30 seconds only.
    api.fate(Fate(namespace=api.namespace, hang=True))
    owner = api.client.create(RUNS, run(), api.namespace)
    api.client.create(JOBS, job("owned", owner), api.namespace)
    api.client.create(JOBS, job("other", suspend=True), api.namespace)
    api.client.until(JOBS, "owned", lambda body: body["status"].get("active") == 1, api.namespace)
    api.client.delete(RUNS, "run", api.namespace, propagationPolicy="Background")
    api.client.until_gone(JOBS, "owned", api.namespace)
    deadline = time.monotonic() + 10
    while api.client.items(PODS, api.namespace) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert api.client.items(PODS, api.namespace) == []
    assert [item["metadata"]["name"] for item in api.client.items(JOBS, api.namespace)] == ["other"]
