"""What every alert and recording rule says about the scenario, by hand from what `cast` says beside each hold.

GPU-minutes from 20:00 on, by run: contracts 540 (productive 390), manuals 780 (656), triage 210 (40), notes 180 (144,
of both lives); so team-legal 1320 (1046) and team-med 390 (184). `old` has 180 (45), all of them before.
"""

from collections.abc import Mapping

from monitoring.scenario.answers import MINUTE, NOTHING, Answer, Rest, scaled

LEGAL = {  # contracts + manuals
    "productive": 390 + 656,
    "cold_start_image": 14 + 28,
    "cold_start_model": 44 + 32,
    "io": 16,
    "checkpoint": 8 + 24,
    "wasted": 62,
    "idle": 6 + 40,
}
MED = {  # triage + notes
    "productive": 40 + 144,
    "cold_start_image": 10 + 5,
    "cold_start_model": 10 + 21,
    "io": 5,
    "checkpoint": 0,
    "wasted": 150 + 5,
    "idle": 0,
}
OLD = {"productive": 45, "cold_start_image": 5, "cold_start_model": 10, "wasted": 120}


def _of(namespace: str, classes: Mapping[str, float]) -> dict[str, float]:
    return {f"{class_} {namespace}": minutes * MINUTE for class_, minutes in classes.items()}


def _of_run(run: str, **classes: float) -> dict[str, float]:
    return {f"{class_} {run}": minutes * MINUTE for class_, minutes in classes.items()}


RULES: dict[str, tuple[Answer, ...]] = {
    "EvolutionArtifactCorrupt": (Answer({"team-legal damaged": 1, "team-med vanished": 2}),),
    "EvolutionBudgetNearlySpent": (Answer({"team-legal manuals": 19 / 20}),),
    # 6.5 GPU-hours in team-med; team-legal is at 73 %
    "EvolutionGoodputLow": (Answer({"team-med": 184 / 390}),),
    "EvolutionNoActiveOperator": (NOTHING, Answer({"evolution-system": 1}, at="23:35")),
    # contracts' last round was its best, and old has failed
    "EvolutionNoImprovement": (Answer({"team-legal manuals": 3}),),
    # of three waits, two were none and one 45 minutes, which is in the bucket from 2560 to 5120 seconds:
    # 95 % of 3 is 0.85 of the way through it
    "EvolutionQueueWaitHigh": (Answer({"team-med Generate": 2560 + 0.85 * 2560}),),
    # contracts wasted 62 of 540, one GPU-hour, but 11 % only
    "EvolutionRetriesWasteGPU": (Answer({"team-med triage": 150 / 210}),),
    "EvolutionRunStalled": (Answer({"team-med triage": 80 * MINUTE}),),
    "EvolutionScheduleStalled": (Answer({"team-legal": 1}), Answer({}, at="25:25")),
    # during the rollout, both were there, and both told of old
    "EvolutionSplitBrain": (NOTHING, Answer({"evolution-system": 2, "team-legal": 2}, at="12:05")),
    "EvolutionWatchStale": (Answer({"evolution-system operator-b pods": 10 * MINUTE}),),
    "namespace_stage_class:evolution_stage_gpu_seconds:increase6h": (
        Answer(
            scaled(
                {
                    "productive team-legal Generate": 192 + 360,
                    "cold_start_image team-legal Generate": 8 + 20,
                    "cold_start_model team-legal Generate": 24 + 16,
                    "io team-legal Generate": 4,
                    "checkpoint team-legal Generate": 2,
                    "wasted team-legal Generate": 62,
                    "productive team-legal Score": 26,
                    "cold_start_image team-legal Score": 2,
                    "cold_start_model team-legal Score": 6,
                    "productive team-legal Train": 96 + 120,
                    "cold_start_model team-legal Train": 4,
                    "io team-legal Train": 2,
                    "checkpoint team-legal Train": 6 + 24,
                    "productive team-legal Evaluate": 76 + 176,
                    "cold_start_image team-legal Evaluate": 4 + 8,
                    "cold_start_model team-legal Evaluate": 10 + 16,
                    "io team-legal Evaluate": 10,
                    "idle team-legal Evaluate": 6 + 40,
                    "productive team-med Generate": 60 + 44,
                    "cold_start_image team-med Generate": 1 + 1,
                    "cold_start_model team-med Generate": 4 + 5,
                    "io team-med Generate": 5,
                    "wasted team-med Generate": 150,
                    "cold_start_image team-med Train": 1,
                    "cold_start_model team-med Train": 4,
                    "wasted team-med Train": 5,
                    "productive team-med Evaluate": 40 + 15 + 25,
                    "cold_start_image team-med Evaluate": 10 + 1 + 1,
                    "cold_start_model team-med Evaluate": 10 + 4 + 4,
                },
                MINUTE,
           ),
            Rest(2 * 4 * 7 - 29, 0),  # Prepare and Publish hold no GPUs, and are not here
       ),
   ),
    "namespace_class:evolution_stage_gpu_seconds:increase6h": (
        Answer(_of("team-legal", LEGAL) | _of("team-med", MED)),
   ),
    "namespace_class:evolution_stage_gpu_seconds:increase1d": (
        Answer(
            _of("team-legal", {class_: minutes + OLD.get(class_, 0) for class_, minutes in LEGAL.items()})
            | _of("team-med", MED)
       ),
   ),
    "namespace_run_class:evolution_stage_gpu_seconds:sum": (
        Answer(
            _of_run("team-legal old", **OLD)
            | _of_run(
                "team-legal contracts",
                productive=390, cold_start_image=14, cold_start_model=44, io=16, checkpoint=8, wasted=62, idle=6,
           )
            | _of_run(
                "team-legal manuals", productive=656, cold_start_image=28, cold_start_model=32, checkpoint=24, idle=40
           )
            | _of_run("team-med triage", productive=40, cold_start_image=10, cold_start_model=10, wasted=150)
            # its second life only
            | _of_run("team-med notes", productive=69, cold_start_image=3, cold_start_model=13, wasted=5),
            Rest(5 * 7 - 4 - 7 - 5 - 4 - 4, 0),
       ),
   ),
    "namespace:evolution_goodput:ratio_increase6h": (Answer({"team-legal": 1046 / 1320, "team-med": 184 / 390}),),
    "namespace:evolution_goodput:ratio_increase1d": (
        Answer({"team-legal": (1046 + 45) / (1320 + 180), "team-med": 184 / 390}),
   ),
    "namespace_run:evolution_goodput:ratio": (
        Answer(
            {
                "team-legal old": 45 / 180,
                "team-legal contracts": 390 / 540,
                "team-legal manuals": 656 / 780,
                "team-med triage": 40 / 210,
                "team-med notes": 69 / 90,
            }
       ),
   ),
    # image and model over all
    "namespace_stage:evolution_cold_start:ratio_increase6h": (
        Answer(
            {
                "team-legal Generate": (28 + 40) / (292 + 396),
                "team-legal Score": (2 + 6) / 34,
                "team-legal Train": 4 / (108 + 144),
                "team-legal Evaluate": (12 + 26) / (106 + 240),
                "team-med Generate": (2 + 9) / (150 + 120),
                "team-med Train": (1 + 4) / 10,
                "team-med Evaluate": (12 + 18) / (60 + 50),
            }
       ),
   ),
    # GPU-hours held, attempts under way included, at 3 USD (h100) or 1 USD (l40s)
    "namespace_run:evolution_cost:sum": (
        Answer(
            {
                "USD h100 team-legal contracts": 9 * 3,
                "USD h100 team-legal manuals": 19 * 3,
                "USD l40s team-med triage": (210 + 170) / 60,
                "USD l40s team-med notes": (90 + 10) / 60,
                "USD l40s team-legal old": 3,
            }
       ),
   ),
    # three rounds each; the other runs have evaluated none
    "namespace_run:evolution_cost_per_round:ratio": (
        Answer({"USD h100 team-legal contracts": 27 / 3, "USD h100 team-legal manuals": 57 / 3}),
   ),
    "namespace_run:evolution_budget:ratio": (Answer({"team-legal manuals": 19 / 20}),),
    "namespace_run:evolution_score_gain_per_gpu_hour:ratio": (
        Answer(
            {
                "team-legal contracts": (0.55 - 0.40) / 9,
                "team-legal manuals": 0,
                "team-med triage": 0,
                "team-med notes": 0,
                "team-legal old": 0,
            }
       ),
   ),
    "namespace_stage_direction:evolution_tokens_per_productive_gpu_second:ratio_increase6h": (
        Answer(
            {
                "prompt team-legal Generate": (38_000 + 30_000) / (552 * MINUTE),
                "generated team-legal Generate": (24_000 + 18_000) / (552 * MINUTE),
                "prompt team-legal Score": 10_000 / (26 * MINUTE),
                "trained team-legal Train": (70_000 + 40_000) / (216 * MINUTE),
                "prompt team-legal Evaluate": (4000 + 8000) / (252 * MINUTE),
                "generated team-legal Evaluate": (2300 + 4000) / (252 * MINUTE),
                "prompt team-med Generate": 9000 / (104 * MINUTE),
                "generated team-med Generate": 5400 / (104 * MINUTE),
                "prompt team-med Evaluate": 1500 / (80 * MINUTE),
                "generated team-med Evaluate": 1500 / (80 * MINUTE),
            }
       ),
   ),
    # contracts 240 of 340, manuals 200 of 300; notes 70 of 100
    "namespace:evolution_yield:ratio_increase6h": (Answer({"team-legal": 440 / 640, "team-med": 70 / 100}),),
    # a wait of 0 is in the bucket from 0 to 1 second, whose 95 % are 0.95 s; one of 300 s in that from 160 to 320
    "namespace_stage:evolution_stage_queue_seconds:p95_increase6h": (
        Answer(
            {
                "team-legal Prepare": 0.95,
                "team-legal Generate": 160 + 160 * (0.95 * 6 - 4) / 2,  # four of 0, two of 300 s
                "team-legal Score": 0.95,
                "team-legal Evaluate": 160 + 160 * (0.95 * 2 - 1) / 1,  # one of 0, one of 300 s
                "team-legal Publish": 0.95,
                "team-med Prepare": 0.95,
                "team-med Generate": 2560 + 0.85 * 2560,
                "team-med Train": 0.95,
                "team-med Evaluate": 0.95,
            }
       ),
   ),
    # since the scrape five minutes ago, manuals with 4 GPUs and triage with 2
    "namespace:evolution_run_allocated_gpu_seconds:delta1m": (
        Answer({"team-legal": 5 * 4 * MINUTE, "team-med": 5 * 2 * MINUTE}),
   ),
    # all that runs have held; notes 140 minutes in its first life and 100 in its second
    "namespace:evolution_run_allocated_gpu_seconds:delta1d": (
        Answer({"team-legal": (180 + 540 + 1140) * MINUTE, "team-med": (380 + 140 + 100) * MINUTE}),
   ),
    # the minute of 26:00 for 4 GPUs; and for 2, and 5 minutes of notes' first life that nobody saw
    "namespace:evolution_ledger_error_gpu_seconds:abs1d": (
        Answer({"team-legal": 4 * MINUTE, "team-med": (2 + 5) * MINUTE}),
   ),
    # that a run is deleted and made again under its name is no mismatch
    "EvolutionLedgerMismatch": (NOTHING,),
    # manuals holds 4 GPUs, triage 2; the pod with 8 is nobody's run
    "namespace:kube_evolution_gpus:sum": (Answer({"team-legal": 4, "team-med": 2}),),
    # minute by minute: what was held, the minute of 26:00 included for what is still held; of notes' first life 55
    # minutes of training before its pod was deleted
    "namespace:kube_evolution_gpu_seconds:sum1d": (
        Answer(
            {
                "team-legal": (180 + 540 + 780 + 4 * 91) * MINUTE,
                "team-med": (60 + 150 + 2 * 86 + 20 + 70 + 55 + 30 + 50 + 20) * MINUTE,
            }
       ),
   ),
}  # fmt: skip
