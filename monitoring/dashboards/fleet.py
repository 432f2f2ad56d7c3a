"""The dashboard of all runs: where GPU time goes, what it buys, and whether the operator is well."""

from grafana_foundation_sdk.builders.dashboard import Dashboard
from operator_panels import operator_panels
from panels import (
    BYTES,
    FLEET,
    GPU_HOURS,
    GPUS,
    MONEY,
    NUMBER,
    POINTS,
    RATIO,
    RUN,
    SECONDS,
    AnyPanel,
    add_closed_row,
    add_row,
    bars,
    chosen,
    dashboard,
    graph,
    link_to,
    list_of_runs,
    number,
)
from queries import BADPUT, BEST, COLD_START, KEPT, RANGE, RUNNING, SETTLING, WASTED, quantile, share
from queries import CHOSEN_RUNS as RUNS


def build() -> Dashboard:
    namespace = chosen("namespace", "Namespace", "label_values(evolution_runs, namespace)", several=True)
    made = dashboard(
        FLEET,
        "Evolution / Fleet",
        "Where the GPU time of all runs goes, what it buys, and whether the operator is well.",
        link_to("One run", RUN),
    ).with_variable(namespace)
    add_row(made, "At a glance", glance())
    add_row(made, "Where GPU time goes", gpu_time())
    add_row(made, "What it buys", worth())
    add_row(made, "Runs, attempts and waits", flow())
    add_closed_row(made, "Throughput and data", throughput())
    add_closed_row(made, "Budgets and the ledger", ledger())
    add_closed_row(made, "Operator (of all namespaces)", operator_panels())
    return made


def glance() -> list[AnyPanel]:
    return [
        number(
            "Goodput",
            "Share of the GPU time settled in the time range that went into work that was kept. "
            "Below 60 %: look at the classes below for what took the rest, and at their remedies.",
            {"": RUNS.goodput()},
            RATIO,
            decimals=1,
            colours=((0, "red"), (0.6, "yellow"), (0.8, "green")),
        ),
        number(
            "GPU-hours settled",
            "GPU time of attempts that ended in the time range, all classes. It comes in steps: a training of eight "
            "hours counts when it ends. What is under way is in *Budgets and the ledger*.",
            {"": RUNS.gpu_hours()},
            GPU_HOURS,
            decimals=1,
        ),
        number(
            "GPU-hours wasted",
            "GPU time of attempts whose work was thrown away: crashes, lost nodes, edits of a run. "
            "If it is not near 0, see *Attempts by result* for the reason.",
            {"": RUNS.gpu_hours(WASTED)},
            GPU_HOURS,
            decimals=1,
        ),
        number(
            "Cost",
            "What the settled GPU-hours cost, at the present price of each run's GPU class, in the currency that the "
            "operator was told. Runs without a GPU class, or whose class has no price, are not in it.",
            {"{{currency}}": f"sum by (currency) ({RUNS.cost_of_range})"},
            MONEY,
            decimals=2,
            nothing="no price known",
        ),
        number(
            "Runs under way",
            "Runs in the phase Running now. If runs wait instead, see *Runs by phase*.",
            {"": f"sum(max by (namespace) ({RUNS.metric('runs', RUNNING)}))"},
            NUMBER,
            decimals=0,
        ),
        number(
            "Rounds promoted",
            "Share of the evaluated rounds that became the best one of their run. GPU time of a rejected round counts "
            "as productive above, since nothing of it was lost; this tells whether it was worth it. "
            "If it is low, look at the data of the runs, or ask for fewer rounds.",
            {"": RUNS.promoted_rounds()},
            RATIO,
            decimals=0,
            nothing="no round evaluated",
        ),
    ]


def gpu_time() -> list[AnyPanel]:
    return [
        bars(
            "GPU-hours by class",
            "The settled GPU time of the time range, each second in exactly one class. The longest bar that is not "
            "productive is what to work on first.",
            {"{{class}}": f"sort_desc({RUNS.gpu_hours(by='class')})"},
            GPU_HOURS,
            decimals=1,
        ),
        graph(
            "Goodput over time",
            f"Productive share of the GPU time that was settled in the {SETTLING} before each moment. "
            "A gap means that no attempt ended in them. A fall tells when to look at *Badput by class over time*.",
            {"goodput": RUNS.goodput(SETTLING)},
            RATIO,
            decimals=0,
            highest=1,
        ),
        graph(
            "Badput by class over time",
            f"GPU-hours that were not productive, settled in the {SETTLING} before each moment. Images: pull them "
            "ahead. Models: do more per worker, or keep the cache. io: look at the store. Wasted: see the attempts.",
            {"{{class}}": RUNS.gpu_hours(BADPUT, by="class", window=SETTLING)},
            GPU_HOURS,
            decimals=1,
            stacked=True,
        ),
        bars(
            "GPU-hours by stage",
            "Which kind of stage the settled GPU time went into. Generation is usually most of it; if evaluation is, "
            "the evaluation set is large for what is trained.",
            {"{{stage}}": f"sort_desc({RUNS.gpu_hours(by='stage')})"},
            GPU_HOURS,
            decimals=1,
        ),
        bars(
            "GPU-hours by namespace",
            "Whose runs the settled GPU time went into.",
            {"{{namespace}}": f"sort_desc({RUNS.gpu_hours(by='namespace')})"},
            GPU_HOURS,
            decimals=1,
        ),
        bars(
            "Cold-start share by stage",
            "Share of a stage's settled GPU time in which workers waited for their image or read the model. "
            "If it is high, let one worker do more: execution by round or run, or more samples.",
            {"{{stage}}": f"sort_desc({RUNS.share_of_gpu_time(COLD_START, by='stage')})"},
            RATIO,
            decimals=0,
            highest=1,
        ),
    ]


def worth() -> list[AnyPanel]:
    return [
        list_of_runs(
            "Runs",
            "Runs as they are at the end of the time range; a name leads to the run's own dashboard. Gain is the best "
            "score less the one before the first round, in points of a hundredth; GPU-hours are all that the run ever "
            "held, attempts under way included. Runs that ended long ago are only here in a time range of then.",
            [
                ("", f"max by (namespace, run, phase) ({RUNS.metric('run_phase')} == 1)", NUMBER, 0),
                ("Round", RUNS.newest("run_round"), NUMBER, 0),
                ("of", RUNS.newest("run_rounds_planned"), NUMBER, 0),
                ("Best score", RUNS.newest("run_score_ratio", BEST), RATIO, 1),
                ("Gain", RUNS.gain, POINTS, 1),
                ("GPU-hours", RUNS.held_hours, NUMBER, 2),
                ("Points per GPU-hour", RUNS.gain_per_gpu_hour, NUMBER, 2),
                ("Cost", RUNS.cost, MONEY, 2),
                ("Budget used", RUNS.budget_used, RATIO, 0),
            ],
        ),
        bars(
            "Score gain per GPU-hour",
            "Points (hundredths of the score) that each run gained over its start for each GPU-hour that it held. "
            "The 15 best ones. Compare runs of the same evaluation set only.",
            {"{{namespace}}/{{run}}": f"sort_desc(topk(15, {RUNS.gain_per_gpu_hour}))"},
            POINTS,
            decimals=2,
            opens_run=True,
            nothing="no score yet",
        ),
        bars(
            "Cost of a point",
            "What each point (hundredth of the score) of gain has cost so far. The 15 dearest runs; a run without a "
            "gain is not here, but in the list above.",
            {"{{namespace}}/{{run}} {{currency}}": f"sort_desc(topk(15, {RUNS.cost_of_a_point}))"},
            MONEY,
            decimals=2,
            opens_run=True,
            nothing="no price or no gain yet",
        ),
        bars(
            "Cost by namespace",
            "What the GPU-hours settled in the time range cost.",
            {"{{namespace}} {{currency}}": f"sort_desc(sum by (namespace, currency) ({RUNS.cost_of_range}))"},
            MONEY,
            decimals=2,
            nothing="no price known",
        ),
    ]


def flow() -> list[AnyPanel]:
    waits = RUNS.metric("stage_queue_seconds_bucket")
    return [
        graph(
            "Runs by phase",
            "Runs of each phase. Many Queued or Pending: no free GPUs, or no quota; the run's conditions say which.",
            {"{{phase}}": f"sum by (phase) (max by (namespace, phase) ({RUNS.metric('runs')}))"},
            NUMBER,
            width=6,
            decimals=0,
            stacked=True,
        ),
        graph(
            "Schedules by state",
            "EvolutionSchedules of each state. Stalled: somebody has to do something; the schedule's conditions say "
            "what.",
            {"{{state}}": f"sum by (state) (max by (namespace, state) ({RUNS.metric('schedules')}))"},
            NUMBER,
            width=6,
            decimals=0,
            stacked=True,
            nothing="no schedules",
        ),
        graph(
            "Attempts by result",
            f"Attempts (a worker's hold of its GPUs) that ended in the {SETTLING} before each moment. "
            "Retryable, preempted and lost ones come again; permanent ones end their run: see its conditions and logs.",
            {"{{result}}": RUNS.grown("run_attempts_total", by="result", window=SETTLING)},
            NUMBER,
            width=6,
            decimals=0,
            stacked=True,
        ),
        graph(
            "Queue wait",
            f"How long workers waited for a node, of those that got one in the {SETTLING} before each moment: half of "
            "them at most p50, 95 % at most p95. If it grows, runs ask for more GPUs than there are.",
            {"p50": quantile(0.5, f"{waits}[{SETTLING}]"), "p95": quantile(0.95, f"{waits}[{SETTLING}]")},
            SECONDS,
            width=6,
        ),
    ]


def throughput() -> list[AnyPanel]:
    waits, lengths = RUNS.metric("stage_queue_seconds_bucket"), "evolution_stage_duration_seconds_bucket"
    kept_per_hour = share(RUNS.grown("stage_samples_total", KEPT, by="stage"), f"({RUNS.gpu_hours(by='stage')})")
    return [
        graph(
            "Tokens per productive GPU-second",
            f"Tokens generated, or trained on, for each productive GPU-second settled in the {SETTLING} before each "
            "moment. A fall after a change of image, engine or GPU class is a loss of speed.",
            {"{{stage}}": RUNS.token_rate()},
            NUMBER,
            decimals=0,
        ),
        graph(
            "Data yield",
            f"Share of the generated candidates that were kept, of stages committed in the {SETTLING} before each "
            "moment. If it falls, open the run and look at its rejects by reason.",
            {"{{namespace}}": RUNS.data_yield(by="namespace")},
            RATIO,
            decimals=0,
            highest=1,
        ),
        bars(
            "Samples kept per GPU-hour",
            "Rows that each kind of stage committed, for each GPU-hour settled in it in the time range.",
            {"{{stage}}": f"sort_desc({kept_per_hour})"},
            NUMBER,
            decimals=0,
        ),
        bars(
            "Queue wait by stage (p95)",
            "How long 95 % of the workers of each kind of stage waited for a node at most, in the time range.",
            {"{{stage}}": quantile(0.95, f"{waits}[{RANGE}]", "stage")},
            SECONDS,
        ),
        bars(
            "Length of attempts (p95)",
            "How long 95 % of the attempts that ended in the time range held their node at most. Of all namespaces. "
            "Choose time ranges longer than this: figures settle when an attempt ends.",
            {"{{stage}}": quantile(0.95, f"{lengths}[{RANGE}]", "stage")},
            SECONDS,
        ),
        bars(
            "Bytes written by stage",
            "Size of the outputs that stages committed in the time range. If a bucket fills up, this says from what.",
            {"{{stage}}": f"sort_desc({RUNS.grown('artifact_bytes_total', by='stage')})"},
            BYTES,
        ),
        graph(
            "Model FLOPs utilisation of training",
            "Share of the GPUs' peak that the last training of each run used; absent where the peak is unknown. "
            "A third to a half is good; below a tenth, the batch is small or the data come slowly.",
            {"{{namespace}}/{{run}}": RUNS.newest("train_mfu_ratio")},
            RATIO,
            width=12,
            decimals=0,
        ),
        graph(
            "Tensor cores active",
            "What NVIDIA's DCGM exporter measures on the GPUs of pods in these namespaces, where it is installed with "
            "pod labels: an independent look at the same thing. Far below the utilisation that training tells: look at "
            "which pods share the GPU.",
            {"{{namespace}}/{{pod}}": f"avg by (namespace, pod) (DCGM_FI_PROF_PIPE_TENSOR_ACTIVE{{{RUNS.namespace}}})"},
            RATIO,
            width=12,
            decimals=0,
            nothing="no DCGM exporter, or no GPU in use",
        ),
    ]


def ledger() -> list[AnyPanel]:
    unsettled, queued = RUNS.newest("run_unsettled_gpu_seconds"), RUNS.newest("run_queued_gpu_seconds")
    return [
        bars(
            "Budget used",
            "Share of a run's budget that it has held. At 100 % it is suspended or ends, as "
            "its budget says. The 20 nearest to their end; runs without a budget are not here.",
            {"{{namespace}}/{{run}}": f"sort_desc(topk(20, {RUNS.budget_used}))"},
            RATIO,
            decimals=0,
            highest=1,
            opens_run=True,
            nothing="no run has a budget",
        ),
        graph(
            "Unsettled and waited for",
            "GPU-hours held by attempts under way or saved in checkpoints of unfinished stages, which are in no class "
            "yet; and GPU-hours for which runs waited in all. Unsettled ones that only grow: a worker that never ends.",
            {"unsettled": f"sum({unsettled}) / 3600", "waited for": f"sum({queued}) / 3600"},
            GPU_HOURS,
            decimals=1,
        ),
        graph(
            "GPUs held: ledger beside Kubernetes",
            "GPUs that runs hold by the operator's ledger (mean of 30 minutes), and by the requests of their pods as "
            "kube-state-metrics sees them. The lines should lie on each other.",
            {"ledger": RUNS.gpus_by_ledger, "Kubernetes": RUNS.gpus_by_kubernetes},
            GPUS,
            decimals=1,
            nothing="needs kube-state-metrics and the rules",
        ),
        number(
            "GPU-hours by the ledger",
            "GPU-hours that runs held in the time range by the ledger: settled or not.",
            {"": RUNS.gpu_hours_by_ledger},
            GPU_HOURS,
            width=8,
            decimals=2,
        ),
        number(
            "GPU-hours by Kubernetes",
            "The same from kube-state-metrics, minute by minute, by the GPUs that pods of runs asked for. A rule "
            "records it; before the rule was there, there is nothing.",
            {"": RUNS.gpu_hours_by_kubernetes},
            GPU_HOURS,
            width=8,
            decimals=2,
            nothing="needs kube-state-metrics and the rules",
        ),
        number(
            "Ledger off by",
            "Difference of the two, as a share of what Kubernetes says. Beyond 5 %: attempts ended unseen (was the "
            "operator down, or pods deleted by hand?), or runs were deleted in the time range.",
            {"": f"abs({RUNS.gpu_hours_by_ledger} / ({RUNS.gpu_hours_by_kubernetes} > 0) - 1)"},
            RATIO,
            width=8,
            decimals=1,
            colours=((0, "green"), (0.05, "red")),
            nothing="needs kube-state-metrics and the rules",
        ),
    ]
