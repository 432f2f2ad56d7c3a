"""CEL rules of the CustomResourceDefinitions: what the API server checks beyond types and bounds.

What these refuse the types refuse too, so that `evolve validate` and the API server agree. The exception is locations:
a laptop reads its files, a cluster reads s3://.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evolution.api.crd_schema import Schema
from evolution.api.presets import PRESETS
from evolution.api.runtime import (
    DURATION_PATTERN,
    LEAST_MEMORY,
    NODE_PATH_PATTERN,
    QUANTITY_PATTERN,
    RESERVED_VARIABLES,
    RESOURCE_NAME_PATTERN,
    VARIABLE,
    StageResources,
)


@dataclass(frozen=True)
class Rule:
    """One of `x-kubernetes-validations`."""

    holds: str
    """CEL expression over `self` that is true for a right value."""
    message: str
    """CEL expression of the text for people; the API server puts the field's path in front of it."""
    field: str = ""
    """The field to blame, as a path below `self`: .gate.metric."""

    def manifest(self) -> Schema:
        return {"rule": self.holds, "messageExpression": self.message} | (
            {"fieldPath": self.field} if self.field else {}
        )


def text(literal: str) -> str:
    """`literal` in CEL."""
    return '"' + literal.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _list(values: Sequence[str]) -> str:
    return "[" + ", ".join(f"'{value}'" for value in values) + "]"


def _after_value(remedy: str, value: str = "self") -> str:
    """The value in quotes, then what is wrong with it."""
    return f"""'"' + {value} + '"' + {text(remedy)}"""


NAME = Rule(
    "self.metadata.name.matches('^[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?$')",
    "'metadata.name: ' + "
    + _after_value(
        " cannot be the name: Job names are built from it; use at most 40 lower-case letters, digits and '-', starting "
        "and ending with a letter or digit",
        "self.metadata.name",
    ),
)
"""Of the object itself; `fieldPath` cannot point into metadata."""


def _location(folder: str, *, empty: bool = False, output: bool = False) -> tuple[Rule, ...]:
    """`self` lies where the workers of a cluster reach it; `folder` stands for it in the remedy."""
    upload = f"upload it (aws s3 sync {folder} s3://bucket/prefix) and give s3://bucket/prefix"
    laptop = f" lies on a laptop, where a cluster's workers cannot read it: {upload}"
    hub = f": download it (hf download NAME --local-dir {folder}), {upload}"
    other = f" has a scheme that is not supported; {upload}"
    if output:
        laptop = " lies on a laptop, where a cluster's workers cannot write; give s3://bucket/prefix"
        hub = other = " cannot be written; give s3://bucket/prefix"
    cases = [
        ("self.startsWith('s3://')", " names no bucket; give s3://bucket/prefix, the bucket with 3 to 63 characters"),
        ("self.startsWith('file://')", laptop),
        ("self.startsWith('hf://')", f" is on the Hugging Face Hub, which is not supported yet{hub}"),
        ("self.startsWith('pvc://')", f" is on a volume claim, which is not supported yet: {upload}"),
        ("self.contains('://')", other),
    ]
    if folder == "MODEL" and not empty:
        name = "^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$"
        cases.append((f"self.matches('{name}')", f" is a relative path or a name on the Hugging Face Hub{hub}"))
    explained = "".join(f"{condition} ? {text(words)} : " for condition, words in cases) + text(laptop)
    reachable = "self.matches('^s3://[^/]{3,63}(/.*)?$')"
    return (Rule(f"self == '' || {reachable}" if empty else reachable, f"""'"' + self + '"' + ({explained})"""),)


def _computed(path: str) -> Rule:
    """The metric at `path` is among evaluation.metrics, or among the preset's where those are left out."""
    parent = path.rpartition(".")[0]
    reference, default = (PRESETS[preset]["evaluation"]["metrics"] for preset in ("Reference", "Default"))
    given, is_reference = "has(self.evaluation.metrics)", "self.preset == 'Reference'"
    metrics = f"({given} ? self.evaluation.metrics : {is_reference} ? {_list(reference)} : {_list(default)})"
    shown = (
        f"{given} ? self.evaluation.metrics.join(', ')"
        f" : {is_reference} ? '{', '.join(reference)}' : '{', '.join(default)}'"
    )
    absent = f"!has(self.{parent}) || !has(self.{path})" if parent == "gate" else f"!has(self.{path})"
    return Rule(
        f"{absent} || self.{path} in {metrics}",
        f"self.{path} + ' is not among evaluation.metrics (' + ({shown}) + '); add it there or choose one of those'",
        f".{path}",
    )


def _placeholder(name: str, otherwise: str = "") -> Rule:
    return Rule(f"self == '' || self.contains('{name}')", text(f"the template has no {name}{otherwise}; write it in"))


RUN_RULES: Mapping[str, Sequence[Rule]] = {
    "spec": (_computed("evaluation.primary"), _computed("gate.metric")),
    "spec.model.uri": _location("MODEL"),
    "spec.model.adapterURI": _location("ADAPTER", empty=True),
    "spec.documents.uri": _location("DOCUMENTS"),
    "spec.evaluation.uri": _location("QUESTIONS"),
    "spec.publish.uri": _location("ADAPTER", output=True),
    "spec.generation.prompts.question": (_placeholder("{document}", ", so the model would not see the document"),),
    "spec.generation.prompts.answer": (_placeholder("{document}"), _placeholder("{question}")),
}
"""By path of the field in an EvolutionRun."""

_NO_TIME = Rule("self.matches('[1-9]')", _after_value(" is no time at all; give a duration such as 1h30m"))
_STAGES_GIVEN = [f"has(self.stages.{name})" for name in StageResources.model_fields]


def _resources(path: str) -> dict[str, Sequence[Rule]]:
    return {
        f"{path}.cpu": (
            Rule(
                "type(self) == int ? self > 0 : string(self).matches('[1-9]')",
                _after_value(" is no CPU; give cores, such as 500m or 4", "string(self)"),
            ),
        ),
        f"{path}.memory": (
            Rule(
                f"isQuantity(string(self)) && quantity(string(self)).compareTo(quantity('{LEAST_MEMORY}')) >= 0",
                _after_value(f" is less than {LEAST_MEMORY}; give memory with its unit, as in 16Gi", "string(self)"),
            ),
        ),
    }


RUNTIME_RULES: Mapping[str, Sequence[Rule]] = {
    "spec": (
        Rule(
            "self.execution == 'Stage' || self.shards == 1",
            "'more than 1 does not fit execution ' + self.execution + "
            + text(", where one pod writes all pairs; give execution Stage, or shards 1"),
            ".shards",
        ),
        Rule(
            f"self.execution == 'Stage' || !({' || '.join(_STAGES_GIVEN)})",
            "'stages have no resources of their own with execution ' + self.execution + "
            + text(", where one pod runs several; give execution Stage, or say it in spec.resources"),
            ".stages",
        ),
    ),
    "spec.tolerations.[]": (
        Rule(
            "self.operator != 'Exists' || self.value == ''",
            _after_value(" cannot be the value with operator Exists, which compares none; leave it out", "self.value"),
            ".value",
        ),
        Rule(
            "self.operator != 'Equal' || self.key != ''",
            text("is empty; name the taint's key, or tolerate all taints with operator Exists"),
            ".key",
        ),
    ),
    "spec.cache": (
        Rule(
            "self.claimName == '' || self.hostPath == ''",
            _after_value(" and claimName ", "self.hostPath")
            + " + "
            + _after_value(" are both given; a cache has one place, give one of the two", "self.claimName"),
            ".hostPath",
        ),
    ),
    "spec.cache.hostPath": (
        Rule("!self.split('/').exists(part, part == '..')", _after_value(" has '..'; give the folder's own path")),
    ),
    "spec.env": (
        Rule(
            f"self.all(name, name.matches('^{VARIABLE}$'))",
            text("a name here is no name of a variable; use letters, digits and '_', with no digit first"),
        ),
        Rule(
            f"!{_list(RESERVED_VARIABLES)}.exists(name, name in self)",
            " + ".join(f"('{name}' in self ? '{name} ' : '')" for name in RESERVED_VARIABLES)
            + " + "
            + text("is set by the operator; leave it out (credentials: name their Secret in storeSecretName)"),
        ),
    ),
    "spec.deadlines.stage": (_NO_TIME,),
    "spec.deadlines.idle": (_NO_TIME,),
    **_resources("spec.resources"),
    **{
        path: rules
        for stage in StageResources.model_fields
        for path, rules in _resources(f"spec.stages.{stage}").items()
    },
}
"""By path of the field in a runtime."""

_PATTERNS = {
    QUANTITY_PATTERN: " is no quantity; give a number, perhaps with a unit: 500m, 4 or 16Gi",
    DURATION_PATTERN: " is no duration; give hours, minutes and seconds in this order: 90s, 30m or 1h30m",
    RESOURCE_NAME_PATTERN: " is no resource name; give the name of a GPU on the nodes, as nvidia.com/gpu",
    NODE_PATH_PATTERN: " is no absolute path; give a folder of the node, as /var/cache/evolution",
}


def pattern_rule(pattern: str, *, or_number: bool) -> Rule:
    """`pattern` as a rule that says what is expected, in place of the expression itself."""
    value = "string(self)" if or_number else "self"
    return Rule(f"{value}.matches({text(pattern)})", _after_value(_PATTERNS[pattern], value))
