"""Every metric that Evolution serves: its full name, type, labels and meaning. The one list of them.

Documentation, alerts and dashboards are checked against this table, and nothing else may be served.
"""

from dataclasses import dataclass
from typing import Literal, get_args

from evolution.api.status import State
from evolution.attempt import CLASSES, RESULTS
from evolution.plan.stage import Kind

Type = Literal["gauge", "counter", "histogram"]
Scope = Literal["Run", "Stage", "Round", "Installation", "Operator"]
"""Of one run; of a run's kinds of stage; of a run's newest round; of all runs together; of the operator's process."""


@dataclass(frozen=True)
class Family:
    """One metric. A histogram is served as `name_bucket`, `name_sum` and `name_count`."""

    name: str
    type: Type
    labels: tuple[str, ...]
    help: str
    scope: Scope

    @property
    def series(self) -> tuple[str, ...]:
        """Names under which Prometheus stores it."""
        if self.type == "histogram":
            return tuple(f"{self.name}{ending}" for ending in ("_bucket", "_sum", "_count"))
        return (self.name,)


RUN = ("namespace", "run")
"""Labels of everything that one run tells."""

BUCKETS = (1.0, 2.5, *(5.0 * 2**power for power in range(14)))
"""Upper bounds, in seconds, of the buckets of how long stages wait and take: 1, 2.5, 5, 10, … 40960."""
HANDLER_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

PHASES: tuple[State, ...] = get_args(State)
SCHEDULE_STATES = ("Waiting", "Running", "Suspended", "Stalled")
QUANTILES = ("0.1", "0.5", "0.9")

LABEL_VALUES: dict[str, tuple[str, ...]] = {
    "phase": PHASES,
    "stage": tuple(kind.value for kind in Kind),
    "class": CLASSES,
    "kind": ("baseline", "last", "best"),
    "direction": ("prompt", "generated", "trained"),
    "quantile": QUANTILES,
    "handler": ("reconcile", "resync"),
    "op": ("manifest", "progress", "history_read", "history_write", "discard"),
}
"""All that these labels can say, wherever they are used."""

OUTCOMES = ("promoted", "rejected")
ROWS = ("kept", "rejected")
STORE_CODES = ("ok", "unavailable", "refused", "timeout", "error")
VERIFY_REASONS = ("damaged", "vanished")
RECORDS = ("applied", "missing", "unreadable")
NOT_SHOWN = ("cap", "ended", "unread")
HANDLER_OUTCOMES = ("ok", "error")
RESOURCES = (
    "clusterevolutionruntimes",
    "evolutionruns",
    "evolutionruntimes",
    "evolutionschedules",
    "jobs",
    "jobsets",
    "pods",
)


def label_values(family: Family, label: str) -> tuple[str, ...]:
    """All that a label of this metric can say; empty if that is not fixed, as names of runs are."""
    return _OWN_VALUES.get((family.name, label)) or LABEL_VALUES.get(label, ())


def _family(scope: Scope, name: str, type_: Type, labels: tuple[str, ...], help_: str) -> Family:
    return Family(f"evolution_{name}", type_, labels, help_, scope)


RUN_INFO = _family(
    "Run",
    "run_info",
    "gauge",
    (*RUN, "base_model", "gpu_class", "queue", "eval_digest"),
    "Always 1: what the run adapts, on which GPUs, in which queue, and its evaluation set's first digits.",
)
RUN_PHASE = _family("Run", "run_phase", "gauge", (*RUN, "phase"), "1 for the phase that the run is in, else 0.")
RUN_ROUND = _family("Run", "run_round", "gauge", RUN, "Round that the run is in; 0 before the first.")
RUN_ROUNDS_PLANNED = _family("Run", "run_rounds_planned", "gauge", RUN, "Rounds that the run asks for at most.")
RUN_ROUNDS = _family(
    "Run",
    "run_rounds_total",
    "counter",
    (*RUN, "outcome"),
    "Rounds that were evaluated: promoted if the round became the best one, else rejected.",
)
RUN_ROUNDS_SINCE_PROMOTION = _family(
    "Run", "run_rounds_since_promotion", "gauge", RUN, "Evaluated rounds in a row that did not become the best one."
)
RUN_ATTEMPTS = _family(
    "Run",
    "run_attempts_total",
    "counter",
    (*RUN, "result"),
    "Ended attempts (a worker's hold of its GPUs), by how they ended.",
)
RUN_SCORE = _family(
    "Run",
    "run_score_ratio",
    "gauge",
    (*RUN, "kind"),
    "Mean of the gate's metric, 0 to 1: before the first round, of the last evaluated round, of the best round.",
)
RUN_LAST_PROGRESS = _family(
    "Run",
    "run_last_progress_timestamp_seconds",
    "gauge",
    RUN,
    "Unix time at which a worker of the run last told of progress, or a stage of it began or ended.",
)
RUN_STALL_THRESHOLD = _family(
    "Run",
    "run_stall_threshold_seconds",
    "gauge",
    RUN,
    "Seconds without progress after which a worker is taken to hang (deadlines.idle of the runtime).",
)
RUN_BUDGET = _family(
    "Run", "run_budget_gpu_seconds", "gauge", RUN, "GPU-seconds that the run may hold; absent without a budget."
)
RUN_ALLOCATED = _family(
    "Run",
    "run_allocated_gpu_seconds",
    "gauge",
    RUN,
    "GPU-seconds that the run has held so far, attempts under way included: what its budget counts.",
)
RUN_UNSETTLED = _family(
    "Run",
    "run_unsettled_gpu_seconds",
    "gauge",
    RUN,
    "GPU-seconds held that are in no class yet: attempts under way, and saved work of unfinished stages.",
)
RUN_QUEUED = _family(
    "Run",
    "run_queued_gpu_seconds",
    "gauge",
    RUN,
    "GPU-seconds for which the run waited for GPUs; they were not held, and are in no class.",
)
TRAIN_MFU = _family(
    "Run",
    "train_mfu_ratio",
    "gauge",
    RUN,
    "Share of the GPUs' peak that the last training used (model FLOPs utilisation); absent where it is unknown.",
)

STAGE_GPU_SECONDS = _family(
    "Stage",
    "stage_gpu_seconds_total",
    "counter",
    (*RUN, "stage", "class"),
    "GPU-seconds that the run held, each in exactly one class, once it is settled which.",
)
STAGE_TOKENS = _family(
    "Stage",
    "stage_tokens_total",
    "counter",
    (*RUN, "stage", "direction"),
    "Tokens of committed stages: read as prompt, generated, or trained on.",
)
STAGE_SAMPLES = _family(
    "Stage",
    "stage_samples_total",
    "counter",
    (*RUN, "stage", "result"),
    "Rows of committed stages: pairs, scores, training rows or predictions kept, and candidates rejected.",
)
ARTIFACT_BYTES = _family(
    "Stage", "artifact_bytes_total", "counter", (*RUN, "stage"), "Bytes of outputs that committed stages wrote."
)

ROUND_REJECTS = _family(
    "Round",
    "round_rejects",
    "gauge",
    (*RUN, "reason"),
    "Questions and answers of the newest round that were not kept.",
)
ROUND_DUPLICATES = _family(
    "Round",
    "round_duplicates_ratio",
    "gauge",
    RUN,
    "Share of the newest round's questions, answered or not, that equal an earlier one.",
)
ROUND_COVERAGE = _family(
    "Round",
    "round_coverage_ratio",
    "gauge",
    RUN,
    "Share of the documents that have at least one pair in the newest round.",
)
ROUND_QUESTION_TOKENS = _family(
    "Round",
    "round_question_tokens",
    "gauge",
    (*RUN, "quantile"),
    "Length of the newest round's questions, in tokens.",
)
ROUND_ANSWER_TOKENS = _family(
    "Round", "round_answer_tokens", "gauge", (*RUN, "quantile"), "Length of the newest round's answers, in tokens."
)
ROUND_IFD = _family(
    "Round",
    "round_ifd",
    "gauge",
    (*RUN, "quantile"),
    "Instruction-following difficulty of the newest scored round's pairs.",
)
ROUND_OVERLAP = _family(
    "Round",
    "round_overlap_questions",
    "gauge",
    RUN,
    "Questions of the newest round that are also in the evaluation set.",
)
ROUND_TRAIN_LOSS = _family("Round", "round_train_loss", "gauge", RUN, "Mean loss of the newest training.")

RUNS = _family(
    "Installation",
    "runs",
    "gauge",
    ("namespace", "phase"),
    "Runs by phase, also those that are not shown one by one.",
)
SCHEDULES = _family(
    "Installation",
    "schedules",
    "gauge",
    ("namespace", "state"),
    "Schedules by state; Stalled: somebody has to do something.",
)
GPU_HOURLY_PRICE = _family(
    "Installation",
    "gpu_hourly_price",
    "gauge",
    ("gpu_class", "currency"),
    "Price of one GPU for one hour, as the operator was told.",
)
STAGE_QUEUE_SECONDS = _family(
    "Installation",
    "stage_queue_seconds",
    "histogram",
    ("namespace", "stage"),
    "Seconds from when a worker was wanted until a node was given to it.",
)
STAGE_DURATION_SECONDS = _family(
    "Installation",
    "stage_duration_seconds",
    "histogram",
    ("stage", "outcome"),
    "Seconds for which ended attempts held their node, by how they ended.",
)
ARTIFACT_VERIFY_FAILURES = _family(
    "Installation",
    "artifact_verify_failures_total",
    "counter",
    ("namespace", "reason"),
    "Artifacts that were damaged, or missing though a manifest names them.",
)

OPERATOR_RESULT_RECORDS = _family(
    "Operator",
    "operator_result_records_total",
    "counter",
    ("result",),
    "Ended attempts with, without, or with unreadable words of their own about what they spent.",
)
OPERATOR_HANDLER_DURATION = _family(
    "Operator",
    "operator_handler_duration_seconds",
    "histogram",
    ("handler", "outcome"),
    "Seconds that the operator took to bring a run a step further, or to list the cluster.",
)
OPERATOR_API_REQUESTS = _family(
    "Operator",
    "operator_api_requests_total",
    "counter",
    ("verb", "resource", "code"),
    "Requests to the API server; code 0 means that no answer came.",
)
OPERATOR_STORE_REQUESTS = _family(
    "Operator",
    "operator_object_store_requests_total",
    "counter",
    ("op", "code"),
    "What the operator asked the object store, and how that ended.",
)
OPERATOR_QUEUE_DEPTH = _family("Operator", "operator_queue_depth", "gauge", (), "Runs that wait to be looked at.")
OPERATOR_QUEUE_OLDEST = _family(
    "Operator",
    "operator_queue_oldest_seconds",
    "gauge",
    (),
    "Seconds that the run longest in wait has waited to be looked at; 0 if none waits.",
)
OPERATOR_WATCH_LAST_EVENT = _family(
    "Operator",
    "operator_watch_last_event_timestamp_seconds",
    "gauge",
    ("resource",),
    "Unix time at which a watch last told something, or a full list last found that it had missed nothing.",
)
OPERATOR_RUNS_NOT_SHOWN = _family(
    "Operator",
    "operator_runs_not_shown",
    "gauge",
    ("reason",),
    "Runs without figures of their own: too many runs, ended long ago, or their history was not read (yet).",
)
OPERATOR_ACTIVE = _family("Operator", "operator_active", "gauge", (), "1 while this operator acts on the cluster.")
OPERATOR_BUILD_INFO = _family("Operator", "operator_build_info", "gauge", ("version",), "Always 1: what runs.")

FAMILIES: tuple[Family, ...] = tuple(value for value in globals().values() if isinstance(value, Family))
"""All of them, in the order in which they are served."""

_OWN_VALUES: dict[tuple[str, str], tuple[str, ...]] = {
    (RUN_ROUNDS.name, "outcome"): OUTCOMES,
    (RUN_ATTEMPTS.name, "result"): RESULTS,
    (STAGE_SAMPLES.name, "result"): ROWS,
    (SCHEDULES.name, "state"): SCHEDULE_STATES,
    (STAGE_DURATION_SECONDS.name, "outcome"): RESULTS,
    (ARTIFACT_VERIFY_FAILURES.name, "reason"): VERIFY_REASONS,
    (OPERATOR_RESULT_RECORDS.name, "result"): RECORDS,
    (OPERATOR_HANDLER_DURATION.name, "outcome"): HANDLER_OUTCOMES,
    (OPERATOR_STORE_REQUESTS.name, "code"): STORE_CODES,
    (OPERATOR_WATCH_LAST_EVENT.name, "resource"): RESOURCES,
    (OPERATOR_RUNS_NOT_SHOWN.name, "reason"): NOT_SHOWN,
}
