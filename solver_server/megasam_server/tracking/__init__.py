"""Stage 3, camera tracking: a camera for every frame."""
