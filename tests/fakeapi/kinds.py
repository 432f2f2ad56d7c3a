"""The kinds that the fake API server knows."""

from dataclasses import dataclass
from typing import Any

Body = dict[str, Any]
"""An object as JSON. Once stored it is never changed in place."""

GROUP = "selfevolution.io"


@dataclass(frozen=True, slots=True)
class Resource:
    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    status: bool = False
    """Has a status subresource: writes to the object ignore status, writes to `/status` ignore the rest."""
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def qualified(self) -> str:
        """As messages of the API server call it: jobs.batch, pods."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def custom(self) -> bool:
        return self.group == GROUP

    @property
    def has_generation(self) -> bool:
        return self.custom or self is JOBS


def _ours(plural: str, kind: str, **more: Any) -> Resource:
    return Resource(GROUP, "v1alpha1", plural, kind, categories=("evolution",), **more)


RUNS = _ours("evolutionruns", "EvolutionRun", status=True, short_names=("evo",))
SCHEDULES = _ours("evolutionschedules", "EvolutionSchedule", status=True, short_names=("evs",))
RUNTIMES = _ours("evolutionruntimes", "EvolutionRuntime")
CLUSTER_RUNTIMES = _ours("clusterevolutionruntimes", "ClusterEvolutionRuntime", namespaced=False)
JOBS = Resource("batch", "v1", "jobs", "Job", status=True)
PODS = Resource("", "v1", "pods", "Pod", status=True, short_names=("po",))
EVENTS = Resource("", "v1", "events", "Event")
NAMESPACES = Resource("", "v1", "namespaces", "Namespace", namespaced=False, status=True, short_names=("ns",))

RESOURCES = (
    RUNS,
    SCHEDULES,
    RUNTIMES,
    CLUSTER_RUNTIMES,
    JOBS,
    PODS,
    EVENTS,
    NAMESPACES,
    Resource("", "v1", "configmaps", "ConfigMap", short_names=("cm",)),
    Resource("", "v1", "secrets", "Secret"),
    Resource("events.k8s.io", "v1", "events", "Event"),
    Resource("coordination.k8s.io", "v1", "leases", "Lease"),
    Resource("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False),
)
BY_PATH = {(resource.group, resource.version, resource.plural): resource for resource in RESOURCES}
