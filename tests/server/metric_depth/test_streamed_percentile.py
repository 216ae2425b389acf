"""The streamed percentile against numpy's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from megasam_server.metric_depth.streamed_percentile import streamed_percentile

floats = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(floats, max_size=5), min_size=1, max_size=5), st.floats(0, 100))
def test_any_values_give_numpys_percentile(lists, percent):
    frames = [np.array(values, np.float32) for values in lists]
    values = np.concatenate(frames).astype(np.float64)
    if not values.size:
        with pytest.raises(ValueError, match="no values"):
            streamed_percentile(frames, percent)
        return
    expected = np.percentile(values, percent)
    # Between a large negative and a large positive value, rounding is relative to them.
    rounding = max(1e-30, 1e-14 * np.abs(values).max())
    assert streamed_percentile(frames, percent) == pytest.approx(expected, rel=1e-9, abs=rounding)


def test_many_values():
    frames = np.random.default_rng(0).exponential(2, (5, 200, 300)).astype(np.float32)
    for percent in (0, 2, 50, 98, 100):
        expected = np.percentile(frames.astype(np.float64), percent)
        assert streamed_percentile(frames, percent) == pytest.approx(expected, rel=1e-12)
