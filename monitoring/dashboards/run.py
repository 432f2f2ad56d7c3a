"""The dashboard of one run: how far it is, what it gained, what that cost, and what its data are like."""

from grafana_foundation_sdk.builders.dashboard import Dashboard
from panels import (
    BYTES,
    COUNT,
    FLEET,
    GPU_HOURS,
    MONEY,
    NUMBER,
    POINTS,
    RATIO,
    RUN,
    SECONDS,
    TOKENS,
    AnyPanel,
    add_row,
    bars,
    chosen,
    dashboard,
    facts,
    graph,
    link_to,
    matrix,
    number,
)
from queries import ONE_RUN, PROMOTED, RUNNING, SETTLING


def build() -> Dashboard:
    runs = 'label_values(evolution_run_info{namespace="$namespace"}, run)'
    made = (
        dashboard(
            RUN,
            "Evolution / Run",
            "One run: how far it is, what it gained, what that cost, and what its data are like.",
            link_to("All runs", FLEET, "namespace"),
        )
        .with_variable(chosen("namespace", "Namespace", "label_values(evolution_run_info, namespace)", several=False))
        .with_variable(chosen("run", "Run", runs, several=False))
    )
    add_row(made, "$run", glance())
    add_row(made, "Score", score())
    add_row(made, "GPU time", gpu_time())
    add_row(made, "What came out", output())
    add_row(made, "Data of the newest round", data())
    add_row(made, "Training", training())
    return made


def glance() -> list[AnyPanel]:
    running = f"on (namespace, run) ({ONE_RUN.newest('run_phase', RUNNING)} == 1)"
    return [
        number(
            "Phase",
            "What the run is doing at the end of the time range. Queued or Pending: its conditions say what it waits "
            "for. Failed: `evolve status` says why, and `evolve retry` tries again.",
            {"{{phase}}": f"max by (phase) ({ONE_RUN.metric('run_phase')} == 1)"},
            NUMBER,
            width=3,
            name_only=True,
            nothing="not shown then",
        ),
        number(
            "Round of planned",
            "Round that the run is in, and the most that it does. It may end earlier, by its patience or its budget.",
            {"round": ONE_RUN.newest("run_round"), "of": ONE_RUN.newest("run_rounds_planned")},
            NUMBER,
            width=3,
            decimals=0,
        ),
        number(
            "Since progress",
            "Time since a worker of the run last told of progress, or a stage began or ended, while it is Running. "
            "It should stay below *taken to hang*, the idle deadline of its runtime: else look at its pods.",
            {
                "since progress": f"time() - {ONE_RUN.newest('run_last_progress_timestamp_seconds')} and {running}",
                "taken to hang": ONE_RUN.newest("run_stall_threshold_seconds"),
            },
            SECONDS,
            width=4,
            decimals=0,
        ),
        number(
            "Score gain",
            "Best score less the one before the first round, in points of a hundredth.",
            {"": ONE_RUN.gain},
            POINTS,
            width=3,
            decimals=1,
            nothing="no score yet",
        ),
        number(
            "Gain per GPU-hour",
            "Points gained for each GPU-hour that the run held. Compare runs of the same evaluation set only.",
            {"": ONE_RUN.gain_per_gpu_hour},
            POINTS,
            width=3,
            decimals=2,
            nothing="no score yet",
        ),
        number(
            "GPU-hours",
            "All that the run held since it began, attempts under way included: what its budget counts.",
            {"": ONE_RUN.held_hours},
            GPU_HOURS,
            width=3,
            decimals=2,
        ),
        number(
            "Cost",
            "The GPU-hours at the present price of the run's GPU class, in the currency that the operator was told. "
            "No price: the runtime names no GPU class, or the operator was told no price of it.",
            {"{{currency}}": ONE_RUN.cost},
            MONEY,
            width=3,
            decimals=2,
            nothing="no price known",
        ),
        number(
            "Budget used",
            "Share of its budget that the run has held. At 100 % it is suspended, or ends with its best round so far.",
            {"": ONE_RUN.budget_used},
            RATIO,
            width=2,
            decimals=0,
            colours=((0, "green"), (0.75, "yellow"), (0.9, "red")),
            nothing="no budget",
        ),
        facts(
            "The run",
            "What it adapts, on which GPUs, in which queue, and the first digits of its evaluation set's digest: runs "
            "with the same digits can be compared.",
            f"max by (base_model, gpu_class, queue, eval_digest) ({ONE_RUN.metric('run_info')})",
            {
                "base_model": "Base model",
                "gpu_class": "GPU class",
                "queue": "Queue",
                "eval_digest": "Evaluation set",
            },
        ),
    ]


def score() -> list[AnyPanel]:
    rounds = ONE_RUN.newest("run_rounds_total", PROMOTED)
    return [
        graph(
            "Score",
            "Mean of the gate's metric on the held-out evaluation set: before the first round (baseline), of the last "
            "evaluated round, of the best one. Last below best: that round was rejected. Flat: more rounds of the "
            "same kind will hardly help.",
            {"{{kind}}": f"max by (kind) ({ONE_RUN.metric('run_score_ratio')})"},
            RATIO,
            width=12,
            decimals=1,
            nothing="no score yet",
        ),
        bars(
            "Evaluated rounds",
            "Rounds that became the best one, and others, since the run began.",
            {"{{outcome}}": f"max by (outcome) ({ONE_RUN.metric('run_rounds_total')})"},
            NUMBER,
            width=4,
            decimals=0,
        ),
        number(
            "Rounds since the best one",
            "Evaluated rounds in a row that did not become the best one. From three on, the run has probably learnt "
            "what it can with these settings.",
            {"": ONE_RUN.newest("run_rounds_since_promotion")},
            NUMBER,
            width=4,
            height=8,
            decimals=0,
            colours=((0, "green"), (2, "yellow"), (3, "red")),
        ),
        number(
            "What it cost",
            "What the run has cost so far for each evaluated round, for each that became the best one, and for each "
            "point (hundredth of the score) gained.",
            {
                "a round": f"{ONE_RUN.cost} / on (namespace, run) ({ONE_RUN.evaluated_rounds} > 0)",
                "a promoted round": f"{ONE_RUN.cost} / on (namespace, run) ({rounds} > 0)",
                "a point": ONE_RUN.cost_of_a_point,
            },
            MONEY,
            width=4,
            height=8,
            decimals=2,
            nothing="no price, or no round yet",
        ),
    ]


def gpu_time() -> list[AnyPanel]:
    seconds = ONE_RUN.metric("stage_gpu_seconds_total")
    return [
        bars(
            "GPU-seconds by class",
            "All settled GPU time since the run began, each second in exactly one class. The longest bar that is not "
            "productive is what to work on first.",
            {"{{class}}": f"sort_desc(sum by (class) (max by (stage, class) ({seconds})))"},
            NUMBER,
            decimals=0,
        ),
        matrix(
            "GPU-seconds by stage and class",
            "The same by kind of stage.",
            f"max by (stage, class) ({seconds})",
            NUMBER,
            rows="stage",
            columns="class",
            width=16,
        ),
        graph(
            "GPU-hours held and settled",
            "held = settled + unsettled. Unsettled are attempts under way and work saved in checkpoints; it falls as "
            "attempts end. Waited for is not held, and costs nothing but time.",
            {
                "held": ONE_RUN.held_hours,
                "settled": f"sum(max by (stage, class) ({seconds})) / 3600",
                "unsettled": f"{ONE_RUN.newest('run_unsettled_gpu_seconds')} / 3600",
                "waited for": f"{ONE_RUN.newest('run_queued_gpu_seconds')} / 3600",
            },
            GPU_HOURS,
            width=12,
            decimals=2,
        ),
        bars(
            "Attempts by result",
            "How workers' holds of GPUs ended, since the run began. Retryable, preempted and lost ones come again; "
            "stopped: the run was suspended, edited or deleted. Many retries: see the logs, `evolve logs`.",
            {"{{result}}": f"max by (result) ({ONE_RUN.metric('run_attempts_total')})"},
            NUMBER,
            width=12,
            decimals=0,
        ),
    ]


def output() -> list[AnyPanel]:
    return [
        bars(
            "Tokens",
            "Tokens of committed stages since the run began: read as prompt, generated, trained on.",
            {"{{stage}} {{direction}}": f"max by (stage, direction) ({ONE_RUN.metric('stage_tokens_total')})"},
            COUNT,
            width=6,
            decimals=0,
        ),
        graph(
            "Tokens per productive GPU-second",
            f"Of stages committed in the {SETTLING} before each moment. A fall after a change of image or runtime is a "
            "loss of speed.",
            {"{{stage}}": ONE_RUN.token_rate()},
            NUMBER,
            width=6,
            decimals=0,
        ),
        bars(
            "Samples",
            "Rows of committed stages since the run began: pairs, scores, training rows, predictions; and candidates "
            "that were rejected.",
            {"{{stage}} {{result}}": f"max by (stage, result) ({ONE_RUN.metric('stage_samples_total')})"},
            NUMBER,
            width=6,
            decimals=0,
        ),
        bars(
            "Bytes written",
            "Size of the outputs that stages committed since the run began.",
            {"{{stage}}": f"max by (stage) ({ONE_RUN.metric('artifact_bytes_total')})"},
            BYTES,
            width=6,
        ),
    ]


def data() -> list[AnyPanel]:
    return [
        bars(
            "Rejects by reason",
            "Questions and answers of the newest round that were not kept. One reason that stands out says what to "
            "change: the prompt, the filters, or the documents.",
            {"{{reason}}": f"sort_desc(max by (reason) ({ONE_RUN.metric('round_rejects')}))"},
            NUMBER,
            decimals=0,
            nothing="none",
        ),
        graph(
            "Coverage and duplicates",
            "Share of the documents with at least one pair, and share of the questions, answered or not, that equal an "
            "earlier one, of the newest round at each moment. Low coverage: ask for more samples. Duplicates that "
            "rise: the documents are exhausted; ask for novel questions.",
            {
                "coverage": ONE_RUN.newest("round_coverage_ratio"),
                "duplicates": ONE_RUN.newest("round_duplicates_ratio"),
            },
            RATIO,
            decimals=0,
            highest=1,
        ),
        number(
            "Overlap with the evaluation set",
            "Questions of the newest round that are also in the evaluation set. They are reported, so that nobody "
            "takes memory for learning; if there are many, take evaluation questions that documents do not suggest.",
            {"": ONE_RUN.newest("round_overlap_questions")},
            NUMBER,
            width=8,
            height=8,
            decimals=0,
            colours=((0, "green"), (1, "yellow")),
        ),
        graph(
            "Length of questions",
            "Tokens of the newest round's questions at each moment: a tenth are shorter than 0.1, half than 0.5. "
            "Lengths that run away show that generation degenerates.",
            {"{{quantile}}": f"max by (quantile) ({ONE_RUN.metric('round_question_tokens')})"},
            TOKENS,
            decimals=0,
        ),
        graph(
            "Length of answers",
            "Tokens of the newest round's answers at each moment. Answers that end at the limit are cut: raise it.",
            {"{{quantile}}": f"max by (quantile) ({ONE_RUN.metric('round_answer_tokens')})"},
            TOKENS,
            decimals=0,
        ),
        graph(
            "Instruction-following difficulty",
            "Of the newest scored round's pairs: near 1 or above, the question does not help with the answer; far "
            "below, the model can answer already. If the middle falls round after round, little is left to learn.",
            {"{{quantile}}": f"max by (quantile) ({ONE_RUN.metric('round_ifd')})"},
            NUMBER,
            decimals=2,
            nothing="no pairs were scored",
        ),
    ]


def training() -> list[AnyPanel]:
    return [
        graph(
            "Training loss",
            "Mean loss of the newest training at each moment. Near 0 with a score that does not rise: it learns by "
            "heart; train fewer epochs.",
            {"loss": ONE_RUN.newest("round_train_loss")},
            NUMBER,
            width=12,
            decimals=3,
            nothing="nothing trained yet",
        ),
        graph(
            "Model FLOPs utilisation",
            "Share of the GPUs' peak that the last training used. A third to a half is good; below a tenth, the batch "
            "is small or the data come slowly.",
            {"MFU": ONE_RUN.newest("train_mfu_ratio")},
            RATIO,
            width=12,
            decimals=0,
            nothing="no GPU, or its peak is unknown",
        ),
    ]
