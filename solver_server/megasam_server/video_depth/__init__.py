"""Stage 5: consistent video depth."""

from megasam_server.video_depth.stage import DepthResult, solve_depth

__all__ = ["DepthResult", "solve_depth"]
