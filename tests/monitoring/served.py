"""What there is to ask Prometheus about: our own metrics, and those of others that we use."""

from collections.abc import Iterator, Mapping

from evolution.metrics.families import FAMILIES, label_values

OF_OTHERS = {
    "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE",
    "kube_job_owner",
    "kube_pod_container_resource_requests",
    "kube_pod_owner",
    "kube_pod_status_phase",
    "kube_pod_status_scheduled",
}
"""Of kube-state-metrics and NVIDIA's DCGM exporter."""


def unknown(metric: str, labels: Mapping[str, str | None]) -> Iterator[str]:
    """What a selector names that there is not."""
    if metric in OF_OTHERS:
        return
    family = next((family for family in FAMILIES if metric in family.series), None)
    if family is None:
        yield f"no metric {metric}"
        return
    for label, value in labels.items():
        if label not in family.labels:
            yield f"{metric} has no label {label}"
        elif value is not None and (known := label_values(family, label)) and value not in known:
            yield f"{metric} has no {label} {value}"
