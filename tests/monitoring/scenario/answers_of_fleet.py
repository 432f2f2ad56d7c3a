"""What every panel of the fleet dashboard says about the scenario: all namespaces, the day before 26:00.

GPU-minutes from 20:00 on are those of `answers_of_rules`; in the day there are 180 of `old` as well (45 productive).
"""

from importlib.metadata import version

from monitoring.scenario.answers import MINUTE, Answer, Panel, Rest, one, scaled

POINTS_PER_GPU_HOUR = {
    "team-legal contracts": 15 / 9,
    "team-legal manuals": 0,
    "team-med triage": 0,
    "team-med notes": 0,
    "team-legal old": 0,
}
# 19 and 9 GPU-hours at 3 USD, the others at 1 USD
HELD_HOURS = {
    "team-legal contracts": 540 / 60,
    "team-legal manuals": (780 + 360) / 60,
    "team-med triage": (210 + 170) / 60,
    "team-med notes": (90 + 10) / 60,
    "team-legal old": 180 / 60,
}
# what each second was, of contracts, manuals, triage, both lives of notes, and old
CLASSES = {
    "productive": 390 + 656 + 40 + 144 + 45,
    "cold_start_image": 14 + 28 + 10 + 5 + 5,
    "cold_start_model": 44 + 32 + 10 + 21 + 10,
    "io": 16 + 5,
    "checkpoint": 8 + 24,
    "wasted": 62 + 150 + 5 + 120,
    "idle": 6 + 40,
}
# of contracts, manuals, triage, notes and old, where they have it
STAGES = {
    "Generate": 292 + 396 + 150 + 120 + 120,
    "Score": 34,
    "Train": 108 + 144 + 10,
    "Evaluate": 106 + 240 + 60 + 50 + 60,
}
SETTLED = 540 + 780 + 210 + 180 + 180

FLEET: dict[Panel, Answer] = {
    Panel("Goodput"): one((390 + 656 + 40 + 144 + 45) / SETTLED),
    Panel("GPU-hours settled"): one(SETTLED / 60),
    Panel("GPU-hours wasted"): one((62 + 150 + 5 + 120) / 60),
    # settled hours: contracts 9 and manuals 13 at 3 USD; triage 3.5, notes 3 and old 3 at 1 USD
    Panel("Cost"): Answer({"USD": 27 + 39 + 3.5 + 3 + 3}),
    Panel("Runs under way"): one(2),  # manuals and triage
    Panel("Rounds promoted"): one(2 / 6),  # of contracts' and manuals' three each
    Panel("GPU-hours by class"): Answer(scaled(CLASSES, 1 / 60)),
    Panel("Goodput over time"): one(1230 / 1710),
    Panel("Badput by class over time"): Answer(
        scaled(
            {
                "cold_start_image": 57,
                "cold_start_model": 107,
                "io": 21,
                "checkpoint": 32,
                "wasted": 217,
                "idle": 46,
            },
            1 / 60,
       )
   ),
    Panel("GPU-hours by stage"): Answer(scaled(STAGES, 1 / 60)),
    Panel("GPU-hours by namespace"): Answer(
        scaled({"team-legal": 540 + 780 + 180, "team-med": 210 + 180}, 1 / 60)
   ),
    Panel("Cold-start share by stage"): Answer(
        {
            "Generate": (8 + 24 + 20 + 16 + 2 + 9) / STAGES["Generate"],
            "Score": (2 + 6) / 34,
            "Train": (4 + 1 + 4) / 262,
            "Evaluate": (4 + 10 + 8 + 16 + 10 + 10 + 2 + 8 + 15) / STAGES["Evaluate"],
        }
   ),
    Panel("Runs", "A"): Answer(
        {
            "team-legal Complete contracts": 1,
            "team-legal Running manuals": 1,
            "team-med Running triage": 1,
            "team-med Queued notes": 1,
            "team-legal Failed old": 1,
        }
   ),
    Panel("Runs", "B"): Answer(
        {
            "team-legal contracts": 3,
            "team-legal manuals": 4,
            "team-med triage": 1,
            "team-med notes": 1,
            "team-legal old": 0,
        }
   ),
    Panel("Runs", "C"): Answer(
        {
            "team-legal contracts": 3,
            "team-legal manuals": 5,
            "team-med triage": 4,
            "team-med notes": 1,
            "team-legal old": 2,
        }
   ),
    Panel("Runs", "D"): Answer(
        {
            "team-legal contracts": 0.55,
            "team-legal manuals": 0.60,
            "team-med triage": 0.30,
            "team-med notes": 0.20,
            "team-legal old": 0.10,
        }
   ),
    # from 0.40 to 0.55; no other run got better than it was
    Panel("Runs", "E"): Answer(
        {
            "team-legal contracts": 15,
            "team-legal manuals": 0,
            "team-med triage": 0,
            "team-med notes": 0,
            "team-legal old": 0,
        }
   ),
    Panel("Runs", "F"): Answer(HELD_HOURS),
    Panel("Runs", "G"): Answer(POINTS_PER_GPU_HOUR),
    Panel("Runs", "H"): Answer(
        {
            "USD team-legal contracts": 9 * 3,
            "USD team-legal manuals": 19 * 3,
            "USD team-med triage": 380 / 60,
            "USD team-med notes": 100 / 60,
            "USD team-legal old": 3,
        }
   ),
    Panel("Runs", "I"): Answer({"team-legal manuals": 19 / 20}),
    Panel("Score gain per GPU-hour"): Answer(POINTS_PER_GPU_HOUR),
    Panel("Cost of a point"): Answer({"USD team-legal contracts": 27 / 15}),
    Panel("Cost by namespace"): Answer({"USD team-legal": 27 + 39 + 3, "USD team-med": 3.5 + 3}),
    Panel("Runs by phase"): Answer({"Running": 2, "Queued": 1, "Complete": 1, "Failed": 1}, Rest(2, 0)),
    Panel("Schedules by state"): Answer({"Waiting": 1, "Stalled": 1}, Rest(2, 0)),
    # contracts 7, manuals 3, triage 2, notes 3 in each life; contracts and notes were preempted
    Panel("Attempts by result"): Answer(
        {"succeeded": 7 + 3 + 2 + 3 + 3, "preempted": 2, "retryable": 1, "lost": 1}, Rest(2, 0)
   ),
    # of 22 waits 18 were none, three 300 s (in the bucket from 160 to 320), and one 45 minutes
    Panel("Queue wait", "A"): one(11 / 18),
    Panel("Queue wait", "B"): one(160 + 160 * (0.95 * 22 - 18) / 3),
    Panel("Tokens per productive GPU-second"): Answer(
        {
            "Generate": (24_000 + 18_000 + 3000 + 2400) / ((192 + 360 + 60 + 44) * MINUTE),
            "Train": (70_000 + 40_000) / ((96 + 120) * MINUTE),
            "Evaluate": (2300 + 4000 + 500 + 500 + 500) / ((76 + 176 + 40 + 15 + 25) * MINUTE),
        }
   ),
    Panel("Data yield"): Answer({"team-legal": (240 + 200) / (340 + 300), "team-med": 70 / 100}),
    Panel("Samples kept per GPU-hour"): Answer(
        scaled(
            {
                "Generate": (240 + 200 + 70) / STAGES["Generate"],
                "Score": 150 / STAGES["Score"],
                "Train": (150 + 150) / STAGES["Train"],
                "Evaluate": (40 + 80 + 5 + 10 + 1) / STAGES["Evaluate"],
            },
            60,
       )
   ),
    # with old's three waits of none; 95 % of ten waits are in the bucket from 2560 to 5120 s
    Panel("Queue wait by stage (p95)"): Answer(
        {
            "Prepare": 0.95,
            "Generate": 2560 + 2560 * (0.95 * (9 + 1) - (8 + 1)),
            "Score": 0.95,
            "Train": 0.95,
            "Evaluate": 160 + 160 * (0.95 * (5 + 1) - (4 + 1)),
            "Publish": 0.95,
        }
   ),
    Panel("Length of attempts (p95)"): Answer(
        {
            "Prepare": 320 + 320 * (0.95 * (5 + 1) - 3) / (2 + 1),  # three of 5 minutes, the others of 10
            # three of 30 minutes, five of 50 to 75, and two that are longer: old's, and one of 165 minutes
            "Generate": 5120 + 5120 * (0.95 * (9 + 1) - 8) / (1 + 1),
            "Score": 2560 + 2560 * 0.95,  # 50 minutes
            "Train": 640 + 640 * 0.95,  # 20 minutes
            "Evaluate": 2560 + 2560 * (0.95 * (5 + 1) - 5) / 1,  # five of 20 or 30 minutes, old's of 60
            "Publish": 160 + 160 * 0.95,  # 5 minutes
        }
   ),
    Panel("Bytes written by stage"): Answer(
        {
            "Prepare": 5000 + 4000 + 3 * 3000 + 1000,
            "Generate": 23_000 + 20_000 + 4000 + 3000,
            "Score": 900 + 600,
            "Train": 6000 + 6000,
            "Evaluate": 400 + 800 + 3 * 50 + 10,
            "Publish": 2000,
        }
   ),
    Panel("Model FLOPs utilisation of training"): Answer({"team-legal contracts": 0.4, "team-legal manuals": 0.3}),
    # 0.35 and 0.25, GPU by GPU
    Panel("Tensor cores active"): Answer({"team-legal manuals-2100-3": 0.3, "team-med triage-2200-3": 0.3}),
    Panel("Budget used"): Answer({"team-legal manuals": 19 / 20}),
    Panel("Unsettled and waited for", "A"): one((360 + 170 + 10) / 60),
    # contracts 15 minutes for 2 GPUs, manuals 5 for 4, triage 45 for 2, notes 15 for one
    Panel("Unsettled and waited for", "B"): one((30 + 20 + 90 + 15) / 60),
    # manuals 4, triage 2; notes held one until 25:45: the straight line through 90, 95, 100, 100, 100 and 100
    # GPU-minutes rises by 32.5 / 17.5 in 5 minutes
    Panel("GPUs held: ledger beside Kubernetes", "A"): one(4 + 2 + 32.5 / 17.5 / 5),
    Panel("GPUs held: ledger beside Kubernetes", "B"): one(4 + 2),
    # of notes the 140 minutes of its first life, which hide the 100 of its second
    Panel("GPU-hours by the ledger"): one((540 + 1140 + 380 + 140 + 180) / 60),
    # the minute of 26:00 is counted for manuals and triage; notes was seen 55 minutes longer than it had settled
    Panel("GPU-hours by Kubernetes"): one((540 + 780 + 4 * 91 + 210 + 2 * 86 + 90 + 55 + 100 + 180) / 60),
    Panel("Ledger off by"): one(1 - 2380 / 2491),
    Panel("Acting operators"): one(1),
    Panel("Version"): Answer({version("evolution"): 1}),
    Panel("Oldest watch"): one(10 * MINUTE),
    Panel("Runs without figures"): Answer({"cap": 0, "ended": 0, "unread": 0}),
    Panel("Damaged artifacts"): one(3),
    # every step took 0.2 s, which is in the bucket from 0.1 to 0.25; every list 0.02 s, in that from 0.01 to 0.025
    Panel("Time of a step (p95)"): Answer({"reconcile": 0.1 + 0.15 * 0.95, "resync": 0.01 + 0.015 * 0.95}),
    Panel("Failed steps"): Answer({"reconcile": 1 / 10, "resync": 0}),
    Panel("Runs that wait to be looked at"): one(2),
    Panel("Longest wait to be looked at"): one(4),
    Panel("Age of watches"): Answer({"pods": 10 * MINUTE}, Rest(6, 0)),
    Panel("Words of ended attempts"): Answer({"applied": 21, "missing": 1, "unreadable": 0}),
    # 60 and 3 in every five minutes
    Panel("Requests to the API server"): Answer({"200": 60 / 300, "409": 3 / 300}),
    Panel("Requests by kind of object"): Answer({"jobs list": 60 / 300, "evolutionruns patch": 3 / 300}),
    Panel("Requests to the object store"): Answer({"ok manifest": 30 / 300, "timeout progress": 3 / 300}),
}  # fmt: skip
