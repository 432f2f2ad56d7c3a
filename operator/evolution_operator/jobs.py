"""The Job of an order. Pure: a run, its runtime and an order give one body, always the same."""

from collections.abc import Collection, Mapping
from typing import Any

from evolution.api.locations import claim_and_path
from evolution.api.run import API_VERSION, EvolutionRun
from evolution.api.runtime import EvolutionRuntimeSpec, Resources, seconds
from evolution.plan.dispatch import Batch, joint_recipe
from evolution.plan.order import Order
from evolution.plan.stage import Kind, canonical_json, sha256
from evolution.plan.worker import ExitCode
from evolution_operator.records import (
    FINGERPRINT,
    GPUS,
    KIND,
    MANAGED_BY,
    OPERATOR,
    QUEUE_LABEL,
    RECIPE,
    ROUND,
    RUN_LABEL,
    RUN_UID,
    RUNTIME_DIGEST,
    SHARDS,
    STAGES,
)

LONGEST_NAME = 63
COMMAND = "evolution-worker"
CACHE = "/cache"
SHARED_MEMORY = "/dev/shm"
SOURCES = "/sources"
"""Folder of the volume claims that a run's sources lie on, each by its name."""
TERMINATION_MESSAGE = "/dev/termination-log"
INDEX = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
USER = 65532
"""Non-root user and group of the workers."""


def run_id(name: str, uid: str) -> str:
    """`<name>-<uid8>`: names the run in the store."""
    return f"{name}-{uid[:8]}"


def job_name(run: str, batch: Batch, appended: int = 0) -> str:
    """`<run>-r<round>-<stage>-<fingerprint8>`: the same stage of the same run has the same Job, whoever creates it.

    Short enough for what Kubernetes appends to it, which has so many characters.
    """
    first = batch.first
    if batch.execution == "Run":
        what = "run"
    elif batch.execution == "Round":
        what = f"r{first.round}-round"
    else:
        what = "publish" if first.kind is Kind.PUBLISH else first.id
    suffix = f"-{what}-{batch.fingerprint[:8]}"
    longest = LONGEST_NAME - len(suffix) - appended
    return run[:longest].rstrip("-") + suffix


def runtime_digest(runtime: EvolutionRuntimeSpec) -> str:
    """Tells one state of a runtime from another."""
    return sha256(canonical_json(runtime.model_dump(mode="json")))[:16]


def build_job(
    run: EvolutionRun,
    uid: str,
    runtime: EvolutionRuntimeSpec,
    batch: Batch,
    order: Order,
    environment: Mapping[str, str],
) -> dict[str, Any]:
    """The batch/v1 Job that has one worker do `order` (or several, its shards).

    `environment` is what every worker of this installation is told about the store.
    """
    meta = run.metadata
    labels = {
        MANAGED_BY: OPERATOR,
        RUN_LABEL: meta.name,
        ROUND: str(batch.first.round),
        "selfevolution.io/stage": batch.first.kind.value if batch.execution == "Stage" else batch.execution,
    }
    stages = batch.stages[: len(order.stages)]
    annotations = {
        FINGERPRINT: batch.fingerprint,
        STAGES: ",".join(stage.id for stage in stages),
        RUNTIME_DIGEST: runtime_digest(runtime),
    }
    if batch.execution != "Stage":
        annotations[RECIPE] = joint_recipe(stages)
    told = {
        FINGERPRINT: batch.fingerprint,
        KIND: batch.first.kind.value,
        GPUS: str(_resources(runtime, batch).gpus),
        RUN_UID: uid,
    }
    if order.shards > 1:
        annotations[SHARDS] = told[SHARDS] = str(order.shards)
    queue = meta.labels.get(QUEUE_LABEL) or runtime.queue_name
    job: dict[str, Any] = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": job_name(meta.name, batch, len(f"-{order.shards - 1}") if order.shards > 1 else 0),
            "namespace": meta.namespace,
            "labels": labels | ({QUEUE_LABEL: queue} if queue else {}),
            "annotations": annotations,
            "ownerReferences": [
                {
                    "apiVersion": API_VERSION,
                    "kind": "EvolutionRun",
                    "name": meta.name,
                    "uid": uid,
                    "controller": True,
                    "blockOwnerDeletion": False,
                }
            ],
        },
        "spec": {
            "backoffLimit": runtime.retries.limit,
            "activeDeadlineSeconds": seconds(runtime.deadlines.stage),
            "ttlSecondsAfterFinished": seconds(runtime.finished_job_ttl),
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {"rules": _failure_rules()},
            "template": {
                "metadata": {"labels": labels, "annotations": told},
                "spec": _pod(run, runtime, batch, order, environment),
            },
        },
    }
    if order.shards > 1:
        job["spec"] |= {"completionMode": "Indexed", "completions": order.shards, "parallelism": order.shards}
    return job


def _failure_rules() -> list[dict[str, Any]]:
    def exits(action: str, *codes: int) -> dict[str, Any]:
        return {"action": action, "onExitCodes": {"containerName": "worker", "operator": "In", "values": [*codes]}}

    return [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        exits("FailJob", ExitCode.BAD_SPEC, ExitCode.BAD_INPUT, ExitCode.LIMIT),
        exits("Ignore", ExitCode.STORE_UNAVAILABLE, ExitCode.PREEMPTED),
    ]


def _pod(
    run: EvolutionRun, runtime: EvolutionRuntimeSpec, batch: Batch, order: Order, environment: Mapping[str, str]
) -> dict[str, Any]:
    claims = _claims(run, runtime)
    # What processes on several GPUs exchange is often more than the 64 MiB that containers have for it.
    shares = _resources(runtime, batch).gpus > 1
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": runtime.termination_grace_seconds,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(runtime, batch, order, environment, claims)],
        "volumes": [
            {"name": "tmp", "emptyDir": {}},
            {"name": "cache", **_cache(runtime)},
            *([{"name": "shared-memory", "emptyDir": {"medium": "Memory"}}] if shares else []),
            # Read-only for the whole pod: the kubelet then leaves owners and modes of the files as they are.
            *(
                {"name": volume, "persistentVolumeClaim": {"claimName": claim, "readOnly": True}}
                for claim, volume in claims.items()
                if volume != "cache"
            ),
        ],
    }
    optional: dict[str, Any] = {
        "serviceAccountName": runtime.service_account_name,
        "imagePullSecrets": [{"name": name} for name in runtime.image_pull_secrets],
        "nodeSelector": dict(runtime.node_selector),
        "tolerations": [
            {name: value for name, value in toleration.model_dump(by_alias=True).items() if value}
            for toleration in runtime.tolerations
        ],
        "priorityClassName": runtime.priority_class_name,
    }
    return pod | {name: value for name, value in optional.items() if value}


def _claims(run: EvolutionRun, runtime: EvolutionRuntimeSpec) -> dict[str, str]:
    """Name of the pod's volume by each claim that a source of the run lies on."""
    spec = run.spec
    uris = (spec.model.uri, spec.model.adapter_uri, spec.documents.uri, spec.evaluation.uri)
    claims = sorted({place[0] for uri in uris if (place := claim_and_path(uri))})
    # A claim that is the cache as well is one volume: some drivers mount a claim only once in a pod.
    return {
        claim: "cache" if claim == runtime.cache.claim_name else f"source-{number}"
        for number, claim in enumerate(claims)
    }


def _cache(runtime: EvolutionRuntimeSpec) -> dict[str, Any]:
    if runtime.cache.claim_name:
        return {"persistentVolumeClaim": {"claimName": runtime.cache.claim_name}}
    if runtime.cache.host_path:
        return {"hostPath": {"path": runtime.cache.host_path, "type": "DirectoryOrCreate"}}
    return {"emptyDir": {}}


def _container(
    runtime: EvolutionRuntimeSpec,
    batch: Batch,
    order: Order,
    environment: Mapping[str, str],
    claims: Mapping[str, str],
) -> dict[str, Any]:
    resources = _resources(runtime, batch)
    amounts = {"cpu": resources.cpu, "memory": resources.memory}
    if resources.gpus:
        amounts[resources.gpu_resource] = str(resources.gpus)
    return {
        "name": "worker",
        "image": runtime.image,
        "imagePullPolicy": runtime.image_pull_policy,
        "command": [COMMAND],
        "env": _env(runtime, order, environment, claims),
        "resources": {"requests": amounts, "limits": amounts},
        "terminationMessagePath": TERMINATION_MESSAGE,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "cache", "mountPath": CACHE},
            *([{"name": "shared-memory", "mountPath": SHARED_MEMORY}] if resources.gpus > 1 else []),
            *(
                {"name": volume, "mountPath": f"{SOURCES}/{claim}", "readOnly": True}
                for claim, volume in claims.items()
            ),
        ],
    }


def _resources(runtime: EvolutionRuntimeSpec, batch: Batch) -> Resources:
    if batch.execution != "Stage":
        return runtime.resources
    own: Resources | None = getattr(runtime.stages, batch.first.kind.value.lower())
    return own or runtime.resources


def _env(
    runtime: EvolutionRuntimeSpec, order: Order, environment: Mapping[str, str], claims: Collection[str]
) -> list[dict[str, Any]]:
    # Kubernetes expands $(NAME) in values; prompts and locations may hold a dollar sign.
    told = order.to_json().decode().replace("$", "$$")
    fixed = {
        "EVOLUTION_ORDER": told,
        "EVOLUTION_TERMINATION_MESSAGE": TERMINATION_MESSAGE,
        "EVOLUTION_CACHE": CACHE,
        "EVOLUTION_GRACE_SECONDS": str(runtime.termination_grace_seconds),
        "HOME": CACHE,
    }
    if claims:
        fixed["EVOLUTION_CLAIMS"] = ":".join(f"{SOURCES}/{claim}" for claim in claims)
    env: list[dict[str, Any]] = [
        {"name": name, "value": value} for name, value in {**environment, **runtime.env, **fixed}.items()
    ]
    env.append({"name": "EVOLUTION_WORKER", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}})
    if runtime.store_secret_name:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            reference = {"name": runtime.store_secret_name, "key": name}
            env.append({"name": name, "valueFrom": {"secretKeyRef": reference}})
    if runtime.engine.secret_name:
        reference = {"name": runtime.engine.secret_name, "key": "OPENAI_API_KEY"}
        env.append({"name": "OPENAI_API_KEY", "valueFrom": {"secretKeyRef": reference}})
    if order.shards > 1:
        env.append({"name": "EVOLUTION_SHARD_INDEX", "valueFrom": {"fieldRef": {"fieldPath": INDEX}}})
    return env
