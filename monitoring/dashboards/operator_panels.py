"""Whether the operator is well: of all namespaces, since it is one process for all of them."""

from panels import NUMBER, PER_SECOND, RATIO, SECONDS, AnyPanel, graph, number
from queries import CHOSEN_RUNS, SETTLING, rate_of, share

HANDLER = "evolution_operator_handler_duration_seconds"
API_REQUESTS = "evolution_operator_api_requests_total"
STORE_REQUESTS = "evolution_operator_object_store_requests_total"
WATCHES = "max by (resource) (evolution_operator_watch_last_event_timestamp_seconds)"
STEP_TIME = f"histogram_quantile(0.95, {rate_of(f'{HANDLER}_bucket', 'le, handler')}) >= 0"
FAILED_STEPS = share(rate_of(HANDLER + '_count{outcome="error"}', "handler"), rate_of(f"{HANDLER}_count", "handler"))


def operator_panels() -> list[AnyPanel]:
    return [
        number(
            "Acting operators",
            "Operators that act on the cluster now. It must be 1: with 0 nothing goes on, with 2 they disturb each "
            "other.",
            {"": "sum(evolution_operator_active) or vector(0)"},
            NUMBER,
            decimals=0,
            colours=((0, "red"), (1, "green"), (2, "red")),
        ),
        number(
            "Version",
            "Versions of the operator that run.",
            {"{{version}}": "max by (version) (evolution_operator_build_info)"},
            NUMBER,
            name_only=True,
            nothing="no operator is scraped",
        ),
        number(
            "Oldest watch",
            "Seconds since the quietest watch last told something, or a full list found that it had missed nothing. "
            "Beyond five minutes the operator may be blind: restart it, and look at its log.",
            {"": f"time() - min({WATCHES})"},
            SECONDS,
            decimals=0,
            colours=((0, "green"), (300, "red")),
        ),
        number(
            "Runs without figures",
            "Runs that are not shown one by one: too many, ended long ago, or their history was not read yet. Sums of "
            "this dashboard do not have them. If unread ones stay, the store does not answer.",
            {"{{reason}}": "max by (reason) (evolution_operator_runs_not_shown)"},
            NUMBER,
            width=6,
            decimals=0,
        ),
        number(
            "Damaged artifacts",
            "Artifacts of the chosen namespaces found damaged, or vanished, in the time range. Anything but 0: look at "
            "the bucket and at who else writes to it.",
            {"": CHOSEN_RUNS.grown("artifact_verify_failures_total")},
            NUMBER,
            width=6,
            decimals=0,
            colours=((0, "green"), (0.5, "red")),
            nothing="0",
        ),
        graph(
            "Time of a step (p95)",
            "How long 95 % of the operator's steps took at most. Beyond a few seconds: look at the API server and the "
            "store.",
            {"{{handler}}": STEP_TIME},
            SECONDS,
        ),
        graph(
            "Failed steps",
            "Share of the operator's steps that ended with an error; it tries again. Lasting: its log says why.",
            {"{{handler}}": FAILED_STEPS},
            RATIO,
            decimals=1,
        ),
        graph(
            "Runs that wait to be looked at",
            "How many runs wait for the operator. A queue that stays long: overload, or a store that does not answer.",
            {"runs": "max(evolution_operator_queue_depth)"},
            NUMBER,
            decimals=0,
        ),
        graph(
            "Longest wait to be looked at",
            "How long the oldest of them has waited.",
            {"oldest": "max(evolution_operator_queue_oldest_seconds)"},
            SECONDS,
        ),
        graph(
            "Age of watches",
            "Time since each watch last told something, or was found to have missed nothing. It should stay below five "
            "minutes.",
            {"{{resource}}": f"time() - {WATCHES}"},
            SECONDS,
        ),
        graph(
            "Words of ended attempts",
            f"Attempts of the last {SETTLING} that told what they spent (applied), did not (missing), or not readably. "
            "Without its own words, all of an attempt's time counts as wasted.",
            {"{{result}}": f"sum by (result) (increase(evolution_operator_result_records_total[{SETTLING}]))"},
            NUMBER,
            decimals=0,
            stacked=True,
        ),
        graph(
            "Requests to the API server",
            "By status code; 0 means that no answer came. 403: permissions; 409: another writer; 429 or 5xx: the API "
            "server is overloaded.",
            {"{{code}}": rate_of(API_REQUESTS, "code")},
            PER_SECOND,
            stacked=True,
        ),
        graph(
            "Requests by kind of object",
            "What the operator asks the API server about. A steep rise without new runs is a loop: look at its log.",
            {"{{verb}} {{resource}}": f"{rate_of(API_REQUESTS, 'verb, resource')} > 0"},
            PER_SECOND,
        ),
        graph(
            "Requests to the object store",
            "By what was asked and how it ended. unavailable and timeout: the store; refused: its key or permissions.",
            {"{{op}} {{code}}": f"{rate_of(STORE_REQUESTS, 'op, code')} > 0"},
            PER_SECOND,
        ),
    ]
