"""What a stage says it has used."""

import numpy as np

from evolution.plan.manifest import Usage
from evolution_trainer.usage import Meter, together

MIB = 2**20


def test_the_peak_of_memory_is_that_of_the_stage_and_not_of_what_the_process_did_before() -> None:
    before = Meter().read(1.0).peak_memory
    large = np.ones(200 * MIB, dtype=np.uint8)
    assert Meter().read(1.0).peak_memory > before + 150 * MIB
    del large
    assert Meter().read(1.0).peak_memory < before + 100 * MIB
    meter = Meter()
    large = np.ones(200 * MIB, dtype=np.uint8)
    del large
    assert meter.read(1.0).peak_memory > before + 150 * MIB


def test_utilisation_is_not_told_where_the_peak_of_the_hardware_is_not_known() -> None:
    meter = Meter()
    meter.flops = 1e9
    assert meter.read(1.0).mfu is None


def test_workers_that_share_a_stage_add_up_and_the_highest_peak_counts() -> None:
    parts = [Usage(tokens_in=3, tokens_out=1, peak_memory=7, flops=2.0), Usage(tokens_in=4, peak_memory=5, flops=1.0)]
    assert together(parts) == Usage(tokens_in=7, tokens_out=1, peak_memory=7, flops=3.0)
