"""CEL rules of the CustomResourceDefinitions: what the API server checks beyond types and bounds.

What these refuse the types refuse too, so that `evolve validate` and the API server agree. The exception is locations:
a laptop reads its files, which a cluster cannot.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evolution.api.crd_schema import Schema
from evolution.api.locations import (
    DATASET_OBJECTIONS,
    HOLDS_USER,
    HUB_DATASET,
    HUB_MODEL,
    MODEL_OBJECTIONS,
    NO_MODEL,
    STEPS_OUT,
    USER_IN_ADDRESS,
    VOLUME,
    Objection,
)
from evolution.api.presets import PRESETS
from evolution.api.runtime import (
    LEAST_CPU,
    LEAST_MEMORY,
    PATTERN_MEANINGS,
    RESERVED_VARIABLES,
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
    remedy: str = ""
    """Plain text for values on which the rule cannot be evaluated; what went wrong is put in front of it."""

    def manifest(self) -> Schema:
        more = {"message": self.remedy, "fieldPath": self.field}
        return {"rule": self.holds, "messageExpression": self.message} | {k: said for k, said in more.items() if said}


def text(literal: str) -> str:
    """`literal` in CEL."""
    return '"' + literal.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _list(values: Sequence[str]) -> str:
    return "[" + ", ".join(f"'{value}'" for value in values) + "]"


def _after_value(remedy: str, value: str = "self") -> str:
    """The value in quotes, then what is wrong with it."""
    return f"""'"' + {value} + '"' + {text(remedy)}"""


def _name(why: str = "") -> Rule:
    """For the object itself, as `fieldPath` cannot point into metadata."""
    remedy = "use at most 40 lower-case letters, digits and '-', starting and ending with a letter or digit"
    return Rule(
        "self.metadata.name.matches('^[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?$')",
        "'metadata.name: ' + " + _after_value(f" cannot be the name{why}; {remedy}", "self.metadata.name"),
    )


_S3 = "give s3://bucket/prefix"
_BUCKET = "self.matches('^s3://[^/@]{3,63}(/.*)?$')"


def _location(right: str, explained: Sequence[tuple[str, str]], otherwise: str) -> tuple[Rule, ...]:
    """`self` lies where the workers of a cluster reach it.

    Args:
        right: CEL condition of locations that can be used.
        explained: what to say of others, by CEL condition.
        otherwise: what to say where none of them holds.
    """
    cases = [("self.startsWith('s3://')", f" names no bucket; {_S3}, the bucket with 3 to 63 characters"), *explained]
    words = "".join(f"{condition} ? {text(what)} : " for condition, what in cases) + text(otherwise)
    told = f"""{_matches(USER_IN_ADDRESS)} ? {text(HOLDS_USER)} : '"' + self + '"' + ({words})"""
    return (Rule(f"self == '' || {right}", told),)


def _matches(pattern: str) -> str:
    return f"self.matches({text(pattern)})"


def _source(hub: str, wrong: str, objections: Sequence[Objection], upload: str) -> tuple[Rule, ...]:
    """A location that workers read, and how its content gets to where they can.

    Args:
        hub: pattern of locations on the Hugging Face Hub.
        wrong: pattern of locations that cannot be used all the same.
        objections: what is said of wrong ones there and on volume claims.
        upload: the command that brings what lies on a laptop to where workers can read it.
    """
    laptop = f" lies on a laptop, where a cluster's workers cannot read it; upload it ({upload}) and {_S3}"
    place = "hf://datasets/org/name" if hub == HUB_DATASET else "hf://org/name"
    give = f"give {place}@<40 hex digits>, or upload it ({upload}) and {_S3}"
    hub_name = "^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$"
    return _location(
        f"{_BUCKET} || ({_matches(f'{hub}|{VOLUME}')} && !{_matches(wrong)})",
        (
            ("self.startsWith('file://')", laptop),
            *((_matches(objection.pattern), objection.remedy) for objection in objections),
            ("self.contains('://')", f" has a scheme that is not supported; upload it ({upload}) and {_S3}"),
            (
                _matches(hub_name),
                f" is a relative path or a name on the Hugging Face Hub; {give}",
            ),
        ),
        laptop,
    )


_MODEL = _source(HUB_MODEL, NO_MODEL, MODEL_OBJECTIONS, "aws s3 sync MODEL s3://bucket/prefix")
_DOCUMENTS = _source(HUB_DATASET, STEPS_OUT, DATASET_OBJECTIONS, "aws s3 sync DOCUMENTS s3://bucket/prefix")
_QUESTIONS = _source(HUB_DATASET, STEPS_OUT, DATASET_OBJECTIONS, "aws s3 cp FILE s3://bucket/prefix/")
_OUTPUT = _location(
    _BUCKET,
    (("self.contains('://') && !self.startsWith('file://')", f" has a scheme that cannot be written to; {_S3}"),),
    f" lies on a laptop, where a cluster's workers cannot write; {_S3}",
)


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
    "": (_name(": names of Jobs are built from it"),),
    "spec": (_computed("evaluation.primary"), _computed("gate.metric")),
    "spec.model.uri": _MODEL,
    "spec.model.adapterURI": _MODEL,
    "spec.documents.uri": _DOCUMENTS,
    "spec.evaluation.uri": _QUESTIONS,
    "spec.publish.uri": _OUTPUT,
    "spec.training": (
        Rule(
            "self.variant != 'Full' || self.quantization == 'None'",
            "self.quantization + "
            + text(" does not fit variant Full, which trains the weights themselves; give None, or train an adapter"),
            ".quantization",
        ),
    ),
    "spec.generation.prompts.question": (_placeholder("{document}", ", so the model would not see the document"),),
    "spec.generation.prompts.answer": (_placeholder("{document}"), _placeholder("{question}")),
}
"""By path of the field in an EvolutionRun; empty for the object itself."""

_NO_TIME = Rule(
    "self == '' || self.matches('[1-9]')", _after_value(" is no time at all; give a duration such as 1h30m")
)
_STAGES_GIVEN = [f"has(self.stages.{name})" for name in StageResources.model_fields]


def _at_least(least: str, otherwise: str) -> tuple[Rule, ...]:
    """A quantity that, if it is one, is not below `least`."""
    number = "quantity(string(self))"
    return (
        Rule(
            f"!isQuantity(string(self)) || {number}.compareTo(quantity('{least}')) >= 0",
            _after_value(f" is less than {least}; {otherwise}", "string(self)"),
        ),
    )


def _resources(path: str) -> dict[str, Sequence[Rule]]:
    return {
        f"{path}.cpu": _at_least(LEAST_CPU, "give cores, such as 500m or 4"),
        f"{path}.memory": _at_least(LEAST_MEMORY, "give memory with its unit, as in 16Gi"),
    }


RUNTIME_RULES: Mapping[str, Sequence[Rule]] = {
    "": (_name(),),
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
    "spec.engine": (
        Rule(
            "self.name != 'OpenAI' || self.endpoint.matches('^https?://')",
            _after_value(
                " is not the URL of a server, and engine OpenAI asks one; give its base URL, as https://host/v1",
                "self.endpoint",
            ),
            ".endpoint",
        ),
        Rule(
            "!self.endpoint.matches('^https?://[^/]*@')",
            text("holds a user or password, which anybody may read there; leave them out: secretName names a key"),
            ".endpoint",
        ),
        Rule(
            "self.name == 'OpenAI' || self.endpoint == ''",
            _after_value(" is given, but engine ", "self.endpoint")
            + " + self.name + "
            + text(" asks no server; leave it out, or give engine OpenAI"),
            ".endpoint",
        ),
        Rule(
            "self.name == 'OpenAI' || self.secretName == ''",
            _after_value(" is given, but engine ", "self.secretName")
            + " + self.name + "
            + text(" asks no server; leave it out, or give engine OpenAI"),
            ".secretName",
        ),
    ),
    "spec.mlflowURI": (
        Rule(
            f"!{_matches(USER_IN_ADDRESS)}",
            text(
                "holds a user or password, which anybody may read there; give them as MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD in env"
            ),
        ),
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
"""By path of the field in a runtime; empty for the object itself."""


def pattern_rule(pattern: str, *, or_number: bool) -> Rule:
    """`pattern` as a rule that says what is expected, in place of the expression itself."""
    value = "string(self)" if or_number else "self"
    return Rule(f"{value}.matches({text(pattern)})", _after_value(f" does not fit; {PATTERN_MEANINGS[pattern]}", value))
