"""Stage 1: relative depth of every frame."""
