"""Five runs in two namespaces between 00:00 and 26:00, and the comings and goings of their operator.

Each hold is followed by what it comes to, in GPU-minutes (minutes times GPUs), because that is what the answers are
made of. From node to start is `cold_start_image`; of an attempt that was of no use, all is wasted.
"""

from monitoring.scenario.story import Hold, Story, minutes

from evolution.plan.stage import Kind

PREPARES = ("prepare-model", "prepare-documents", "prepare-evaluation")
PREPARE, GENERATE, SCORE = Kind.PREPARE, Kind.GENERATE, Kind.SCORE
TRAIN, EVALUATE, PUBLISH = Kind.TRAIN, Kind.EVALUATE, Kind.PUBLISH

OLD = Story(
    "team-legal",
    "old",
    gpu_class="l40s",
    queue="legal",
    created="03:00",
    states={"03:00": "Running", "06:10": "Failed"},
    spec={"rounds": 2},
    scores=(0.10,),
    holds=(
        Hold("03:00", "03:00", "03:01", "03:10", spent={PREPARE: minutes(io=9, bytes=1000)}, commits=PREPARES),
        Hold(  # 60: productive 45, model 10, image 5
            "03:10", "03:10", "03:15", "04:10", gpus=1,
            spent={EVALUATE: minutes(
                productive=45, load=10, prompt_tokens=100, generated_tokens=100, kept=1, bytes=10
            )},
            commits=("r0-evaluate",),
        ),
        Hold(  # 120: wasted, its image included, for nothing came of it
            "04:10", "04:10", "04:11", "06:10", gpus=1, round=1, result="permanent",
            spent={GENERATE: minutes(wasted=119)},
        ),
    ),
)  # fmt: skip
"""Failed long before. 180 GPU-minutes: productive 45, image 5, model 10, wasted 120. All before 20:00."""

CONTRACTS = Story(
    "team-legal",
    "contracts",
    gpu_class="h100",
    queue="legal",
    created="20:10",
    states={"20:10": "Running", "25:10": "Complete"},
    spec={"rounds": 3, "selection": {"strategy": "Hard"}, "publish": {"uri": "file:///adapters/best"}},
    scores=(0.40, 0.50, 0.46, 0.55),
    holds=(
        Hold("20:10", "20:10", "20:11", "20:20", spent={PREPARE: minutes(io=9, bytes=5000)}, commits=PREPARES),
        Hold(  # 40: productive 24, image 4, model 6, io 4, idle 2; waited 5 minutes
            "20:20", "20:25", "20:27", "20:45", gpus=2,
            spent={EVALUATE: minutes(
                productive=12, load=3, io=2, idle=1, prompt_tokens=1000, generated_tokens=500, kept=10, bytes=100
            )},
            commits=("r0-evaluate",),
        ),
        Hold(  # 60: productive 48, since what it saved was used, image 2, model 6, io 2, wasted 2
            "20:45", "20:45", "20:46", "21:15", gpus=2, round=1, result="preempted",
            spent={GENERATE: minutes(saved=24, load=3, io=1, wasted=1)}, saves="r1-generate",
        ),
        Hold(  # 60: productive 48, image 2, model 6, checkpoint 2, io 2; waited 5 minutes
            "21:15", "21:20", "21:21", "21:50", gpus=2, round=1,
            spent={GENERATE: minutes(
                productive=24, load=3, checkpoint=1, io=1,
                prompt_tokens=20_000, generated_tokens=12_000, kept=90, rejected=30, bytes=9000,
            )},
            commits=("r1-generate",),
        ),
        Hold(  # 100. Score 26: productive 18, image 2, model 6. Train 48: productive 40, model 4, checkpoint 2, io 2.
            # Evaluate 26: productive 20, model 4, io 2.
            "21:50", "21:50", "21:51", "22:40", gpus=2, round=1,
            spent={
                SCORE: minutes(productive=9, load=3, prompt_tokens=6000, kept=90, bytes=900),
                TRAIN: minutes(productive=20, load=2, checkpoint=1, io=1, trained_tokens=30_000, kept=60, bytes=2000),
                EVALUATE: minutes(
                    productive=10, load=2, io=1, prompt_tokens=1000, generated_tokens=600, kept=10, bytes=100
                ),
            },
            commits=("r1-score", "r1-train", "r1-evaluate"),
        ),
        Hold(  # 60: wasted
            "22:40", "22:40", "22:41", "23:10", gpus=2, round=2, result="retryable",
            spent={GENERATE: minutes(wasted=29)},
        ),
        Hold(  # 120. Generate 64: productive 56, image 2, model 6. Score 8 and Train 28: productive.
            # Evaluate 20: productive 16, idle 4. Waited 5 minutes.
            "23:10", "23:15", "23:16", "24:15", gpus=2, round=2,
            spent={
                GENERATE: minutes(
                    productive=28, load=3,
                    prompt_tokens=10_000, generated_tokens=6000, kept=60, rejected=60, bytes=6000,
                ),
                SCORE: minutes(productive=4, prompt_tokens=4000, kept=60, bytes=600),
                TRAIN: minutes(productive=14, trained_tokens=20_000, kept=40, bytes=2000),
                EVALUATE: minutes(
                    productive=8, idle=2, prompt_tokens=1000, generated_tokens=500, kept=10, bytes=100
                ),
            },
            commits=("r2-generate", "r2-score", "r2-train", "r2-evaluate"),
        ),
        Hold(  # 100. Generate 48: productive 40, image 2, model 6. Train 32: productive 28, checkpoint 4.
            # Evaluate 20: productive 16, io 4.
            "24:15", "24:15", "24:16", "25:05", gpus=2, round=3,
            spent={
                GENERATE: minutes(
                    productive=20, load=3,
                    prompt_tokens=8000, generated_tokens=6000, kept=90, rejected=10, bytes=8000,
                ),
                TRAIN: minutes(productive=14, checkpoint=2, trained_tokens=20_000, kept=50, bytes=2000),
                EVALUATE: minutes(
                    productive=8, io=2, prompt_tokens=1000, generated_tokens=700, kept=10, bytes=100
                ),
            },
            commits=("r3-generate", "r3-train", "r3-evaluate"),
        ),
        Hold(
            "25:05", "25:05", "25:06", "25:10", round=3, spent={PUBLISH: minutes(io=4, bytes=2000)},
            commits=("publish",),
        ),
    ),
    metrics={
        GENERATE: {
            "pairs": 90,
            "questions": 120,
            "rejects": {"question": {"TooShort": 4}, "answer": {"Duplicate": 6, "TooShort": 1}},
            "coverage": {"covered": 27, "documents": 30},
            "questionTokens": {"0.1": 9, "0.5": 14, "0.9": 27},
            "answerTokens": {"0.1": 21, "0.5": 63, "0.9": 142},
        },
        SCORE: {"ifd": {"0.1": 0.41, "0.5": 0.66, "0.9": 0.93}},
        TRAIN: {"loss": 1.0625},
        EVALUATE: {"overlap": 2},
    },
    mfu=0.4,
)  # fmt: skip
"""Complete: the score rose from 0.40 to 0.55; rounds 1 and 3 were promoted, round 2 was rejected.

540 GPU-minutes (9 GPU-hours): productive 390, image 14, model 44, io 16, checkpoint 8, wasted 62, idle 6.
Generate 292 (productive 192), Score 34 (26), Train 108 (96), Evaluate 106 (76). Waited: 15 minutes for 2 GPUs.
"""

MANUALS = Story(
    "team-legal",
    "manuals",
    gpu_class="h100",
    queue="legal",
    created="21:00",
    states={"21:00": "Running"},
    spec={"rounds": 5, "budget": {"gpuHours": 20}, "selection": {"strategy": "None"}, "gate": {"patience": 0}},
    scores=(0.60, 0.58, 0.57, 0.59),
    holds=(
        Hold("21:00", "21:00", "21:01", "21:10", spent={PREPARE: minutes(io=9, bytes=4000)}, commits=PREPARES),
        Hold(  # 120: productive 96, image 8, model 16
            "21:10", "21:10", "21:12", "21:40", gpus=4,
            spent={EVALUATE: minutes(
                productive=24, load=4, prompt_tokens=2000, generated_tokens=1000, kept=20, bytes=200
            )},
            commits=("r0-evaluate",),
        ),
        Hold(  # 660. Generate 396: productive 360, image 20, model 16. Train 144: productive 120, checkpoint 24.
            # Evaluate 120: productive 80, idle 40.
            "21:40", "21:40", "21:45", "24:25", gpus=4, round=1,
            spent={
                GENERATE: minutes(
                    productive=90, load=4,
                    prompt_tokens=30_000, generated_tokens=18_000, kept=200, rejected=100, bytes=20_000,
                ),
                TRAIN: minutes(productive=30, checkpoint=6, trained_tokens=40_000, kept=150, bytes=6000),
                EVALUATE: minutes(
                    productive=20, idle=10, prompt_tokens=6000, generated_tokens=3000, kept=60, bytes=600
                ),
            },
            commits=tuple(f"r{r}-{stage}" for r in (1, 2, 3) for stage in ("generate", "train", "evaluate")),
        ),
        Hold("24:25", "24:30", "24:31", gpus=4, round=4, spent={GENERATE: minutes()}),  # 360 at 26:00; waited 5 minutes
    ),
    progressed=("25:55",),
    metrics={TRAIN: {"loss": 1.5}},
    mfu=0.3,
)  # fmt: skip
"""Running: 19 of its 20 GPU-hours are held at 26:00, and none of its three rounds was better than the start.

780 GPU-minutes are settled: productive 656, image 28, model 32, checkpoint 24, idle 40; 360 are under way.
Generate 396 (productive 360), Train 144 (120), Evaluate 240 (176). Waited: 5 minutes for 4 GPUs.
"""

TRIAGE = Story(
    "team-med",
    "triage",
    gpu_class="l40s",
    queue="med",
    created="22:00",
    states={"22:00": "Running"},
    spec={"rounds": 4},
    scores=(0.30,),
    holds=(
        Hold("22:00", "22:00", "22:01", "22:05", spent={PREPARE: minutes(io=4, bytes=3000)}, commits=PREPARES),
        Hold(  # 60: productive 40, image 10, model 10
            "22:05", "22:05", "22:10", "22:35", gpus=2,
            spent={EVALUATE: minutes(productive=20, load=5, prompt_tokens=500, generated_tokens=500, kept=5, bytes=50)},
            commits=("r0-evaluate",),
        ),
        Hold(  # 150: wasted, since it was lost without a word; waited 45 minutes
            "22:35", "23:20", "23:21", "24:35", gpus=2, round=1, result="lost", spent={GENERATE: minutes()}
        ),
        Hold("24:35", "24:35", "24:36", gpus=2, round=1, spent={GENERATE: minutes()}),  # 170 at 26:00
    ),
    progressed=("24:40",),
)  # fmt: skip
"""Running, but silent since 24:40: at 26:00 for 80 minutes, where 60 are allowed.

210 GPU-minutes are settled: productive 40, image 10, model 10, wasted 150; 170 are under way. Generate 150 (productive
0), Evaluate 60 (40). Waited: 45 minutes for 2 GPUs.
"""

NOTES_BEFORE = Story(
    "team-med",
    "notes",
    gpu_class="l40s",
    queue="med",
    created="20:30",
    deleted="23:00",
    states={"20:30": "Running"},
    spec={"rounds": 1},
    scores=(0.20,),
    holds=(
        Hold("20:30", "20:30", "20:31", "20:35", spent={PREPARE: minutes(io=4, bytes=3000)}, commits=PREPARES),
        Hold(  # 20: productive 15, image 1, model 4
            "20:35", "20:35", "20:36", "20:55", gpus=1,
            spent={EVALUATE: minutes(productive=15, load=4, prompt_tokens=500, generated_tokens=500, kept=5, bytes=50)},
            commits=("r0-evaluate",),
        ),
        Hold(  # 70: productive 60, image 1, model 4, io 5
            "20:55", "20:55", "20:56", "22:05", gpus=1, round=1,
            spent={GENERATE: minutes(
                productive=60, load=4, io=5,
                prompt_tokens=5000, generated_tokens=3000, kept=40, rejected=10, bytes=4000,
            )},
            commits=("r1-generate",),
        ),
        Hold("22:05", "22:05", "22:06", gpus=1, round=1, spent={TRAIN: minutes()}),  # 50 at 22:55, as last seen
    ),
)  # fmt: skip
"""Deleted at 23:00 while it trained. 90 GPU-minutes were settled: productive 75, image 2, model 8, io 5."""

NOTES = Story(
    "team-med",
    "notes",
    gpu_class="l40s",
    queue="med",
    created="24:00",
    states={"24:00": "Running", "25:45": "Queued"},
    spec={"rounds": 1},
    scores=(0.20,),
    holds=(
        Hold("24:00", "24:00", "24:01", "24:05", spent={PREPARE: minutes(io=4, bytes=3000)}, commits=PREPARES),
        Hold(  # 30: productive 25, image 1, model 4
            "24:05", "24:05", "24:06", "24:35", gpus=1,
            spent={EVALUATE: minutes(productive=25, load=4, prompt_tokens=500, generated_tokens=500, kept=5, bytes=50)},
            commits=("r0-evaluate",),
        ),
        Hold(  # 50: productive 44, image 1, model 5
            "24:35", "24:35", "24:36", "25:25", gpus=1, round=1,
            spent={GENERATE: minutes(
                productive=44, load=5, prompt_tokens=4000, generated_tokens=2400, kept=30, rejected=20, bytes=3000
            )},
            commits=("r1-generate",),
        ),
        Hold(  # 20: image 1, model 4, wasted 5; 10 are saved, and in no class before somebody goes on with them
            "25:25", "25:25", "25:26", "25:45", gpus=1, round=1, result="preempted",
            spent={TRAIN: minutes(saved=10, load=4, wasted=5)}, saves="r1-train",
        ),
        Hold("25:45", gpus=1, round=1, spent={TRAIN: minutes()}),  # has waited 15 minutes at 26:00
    ),
)  # fmt: skip
"""The same name again, and another run: counters from 0. 90 GPU-minutes are settled: productive 69, image 3, model 13,
wasted 5; 10 are not. Both lives together: Evaluate 50 (productive 40, image 2, model 8), Generate 120 (104, image 2,
model 9, io 5), Train 10 (image 1, model 4, wasted 5).
"""

STORIES = (OLD, CONTRACTS, MANUALS, TRIAGE, NOTES_BEFORE, NOTES)
PRICES = {"h100": 3.0, "l40s": 1.0}
CURRENCY = "USD"
