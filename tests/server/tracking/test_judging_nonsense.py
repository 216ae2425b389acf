"""Numbers that are not finite never pass as a good solve."""

import pytest
from megasam_server.pipeline.quality import judge

from tests.server.test_quality import NAN, plate_of, solution


@pytest.mark.parametrize("broken", [NAN, float("inf")])
def test_a_camera_path_with_nan_is_never_good(broken):
    solved = solution()
    solved.cameras.world_from_cam[7, 0, 3] = broken
    assert judge(solved, plate_of(), 0.0).verdict == "failed"


@pytest.mark.parametrize("field", ["coverage", "explained_share"])
def test_a_share_that_is_nan_is_never_good(field):
    assert judge(solution(**{field: NAN}), plate_of(), 0.0).verdict != "good"
