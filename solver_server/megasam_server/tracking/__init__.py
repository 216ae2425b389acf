"""Stage 3, camera tracking: a camera for every frame."""

from megasam_server.tracking.solution import TrackingSolution
from megasam_server.tracking.solve import solve_cameras

__all__ = ["TrackingSolution", "solve_cameras"]
