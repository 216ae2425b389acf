"""The solver: plates in, cameras, depth and masks out."""
