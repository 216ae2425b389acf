"""Time and peak memory of stages."""

from __future__ import annotations

import time

import numpy as np
import pytest
from megasam_server.pipeline.stage_meter import SAMPLE_SECONDS, StageMeter


def test_a_stage_has_its_time_and_its_peak_even_when_the_memory_is_given_back():
    meter = StageMeter()
    with meter.stage("small"):
        time.sleep(0.05)
    with meter.stage("large"):
        block = np.ones(200 * 2**20, np.uint8)
        time.sleep(3 * SAMPLE_SECONDS)
        del block
    with meter.stage("after"):
        pass
    assert 0.05 <= meter.seconds["small"] < 5
    assert meter.peak_mib["large"] > meter.peak_mib["small"] + 150
    assert meter.peak_mib["after"] < meter.peak_mib["large"] - 150


def test_a_stage_that_fails_or_comes_twice_is_measured():
    meter = StageMeter()
    with pytest.raises(ValueError), meter.stage("tracking"):
        time.sleep(0.05)
        raise ValueError
    first = meter.seconds["tracking"]
    with meter.stage("tracking"):
        time.sleep(0.05)
    assert meter.seconds["tracking"] >= first + 0.05
