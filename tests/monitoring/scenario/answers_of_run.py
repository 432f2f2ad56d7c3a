"""What every panel of the dashboard of one run says about `contracts` at 26:00, for the day before."""

from monitoring.scenario.answers import HOUR, MINUTE, Answer, Panel, Rest, scaled
from monitoring.scenario.cast import CONTRACTS
from monitoring.scenario.story import moment

RUN_LABELS = "team-legal contracts"


def _this(value: float) -> Answer:
    return Answer({RUN_LABELS: value})


def _evaluation_set() -> str:
    """The first twelve digits of what `prepare-evaluation` made."""
    stage = CONTRACTS.graph(moment("26:00")).stage("prepare-evaluation")
    assert stage is not None
    assert stage.manifest is not None
    return stage.manifest.outputs["items"].digest[:12]


RUN: dict[Panel, Answer] = {
    Panel("Phase"): Answer({"Complete": 1}),
    Panel("Round of planned", "A"): _this(3),
    Panel("Round of planned", "B"): _this(3),
    Panel("Since progress", "A"): Answer({"team-legal manuals": 5 * MINUTE}, run="manuals"),
    Panel("Since progress", "B"): _this(HOUR),
    Panel("Score gain"): _this(15),  # from 0.40 to 0.55
    Panel("Gain per GPU-hour"): _this(15 / 9),
    Panel("GPU-hours"): _this(540 / 60),
    Panel("Cost"): Answer({f"USD {RUN_LABELS}": 9 * 3}),
    Panel("Budget used"): Answer({"team-legal manuals": 19 / 20}, run="manuals"),
    Panel("The run"): Answer({f"s3://models/base {_evaluation_set()} h100 legal": 1}),
    Panel("Score"): Answer({"baseline": 0.40, "best": 0.55, "last": 0.55}),
    Panel("Evaluated rounds"): Answer({"promoted": 2, "rejected": 1}),
    Panel("Rounds since the best one"): _this(0),
    Panel("What it cost", "A"): _this(27 / 3),
    Panel("What it cost", "B"): _this(27 / 2),
    Panel("What it cost", "C"): Answer({f"USD {RUN_LABELS}": 27 / 15}),
    Panel("GPU-seconds by class"): Answer(
        scaled(
            {
                "productive": 390,
                "cold_start_image": 14,
                "cold_start_model": 44,
                "io": 16,
                "checkpoint": 8,
                "wasted": 62,
                "idle": 6,
            },
            MINUTE,
        )
    ),
    Panel("GPU-seconds by stage and class"): Answer(
        scaled(
            {
                "productive Generate": 192,
                "cold_start_image Generate": 8,
                "cold_start_model Generate": 24,
                "io Generate": 4,
                "checkpoint Generate": 2,
                "wasted Generate": 62,
                "productive Score": 26,
                "cold_start_image Score": 2,
                "cold_start_model Score": 6,
                "productive Train": 96,
                "cold_start_model Train": 4,
                "io Train": 2,
                "checkpoint Train": 6,
                "productive Evaluate": 76,
                "cold_start_image Evaluate": 4,
                "cold_start_model Evaluate": 10,
                "io Evaluate": 10,
                "idle Evaluate": 6,
            },
            MINUTE,
        ),
        Rest(4 * 7 - 18, 0),
    ),
    Panel("GPU-hours held and settled", "A"): _this(9),
    Panel("GPU-hours held and settled", "B"): Answer({"": 9}),
    Panel("GPU-hours held and settled", "C"): _this(0),
    Panel("GPU-hours held and settled", "D"): _this(2 * 15 / 60),
    Panel("Attempts by result"): Answer({"succeeded": 7, "preempted": 1, "retryable": 1}, Rest(3, 0)),
    Panel("Tokens"): Answer(
        {
            "prompt Generate": 20_000 + 10_000 + 8000,
            "generated Generate": 12_000 + 6000 + 6000,
            "prompt Score": 6000 + 4000,
            "trained Train": 30_000 + 20_000 + 20_000,
            "prompt Evaluate": 4 * 1000,
            "generated Evaluate": 500 + 600 + 500 + 700,
        }
    ),
    Panel("Tokens per productive GPU-second"): Answer(
        {
            "Generate": 24_000 / (192 * MINUTE),
            "Train": 70_000 / (96 * MINUTE),
            "Evaluate": 2300 / (76 * MINUTE),
        }
    ),
    Panel("Samples"): Answer(
        {
            "kept Generate": 90 + 60 + 90,
            "rejected Generate": 30 + 60 + 10,
            "kept Score": 90 + 60,
            "kept Train": 60 + 40 + 50,
            "kept Evaluate": 4 * 10,
        }
    ),
    Panel("Bytes written"): Answer(
        {
            "Prepare": 5000,
            "Generate": 9000 + 6000 + 8000,
            "Score": 900 + 600,
            "Train": 3 * 2000,
            "Evaluate": 4 * 100,
            "Publish": 2000,
        }
    ),
    Panel("Rejects by reason"): Answer({"TooShort": 4 + 1, "Duplicate": 6}),
    Panel("Coverage and duplicates", "A"): _this(27 / 30),
    Panel("Coverage and duplicates", "B"): _this(6 / 124),
    Panel("Overlap with the evaluation set"): _this(2),
    Panel("Length of questions"): Answer({"0.1": 9, "0.5": 14, "0.9": 27}),
    Panel("Length of answers"): Answer({"0.1": 21, "0.5": 63, "0.9": 142}),
    Panel("Instruction-following difficulty"): Answer({"0.1": 0.41, "0.5": 0.66, "0.9": 0.93}),
    Panel("Training loss"): _this(1.0625),
    Panel("Model FLOPs utilisation"): _this(0.4),
}
