"""Stage 4: optical flow and motion masks."""

from megasam_server.flow.stage import FlowResult, solve_flow

__all__ = ["FlowResult", "solve_flow"]
