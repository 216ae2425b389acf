"""Stage 4: optical flow and motion masks."""
