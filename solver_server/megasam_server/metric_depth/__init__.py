"""Stage 2: metric depth, field of view, and one scale and shift for the clip."""
