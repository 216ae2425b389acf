"""Stage 5: consistent video depth."""
