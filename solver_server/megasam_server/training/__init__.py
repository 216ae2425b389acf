"""Training of our own weights from generated data: scenes with exact depth, pose and flow."""
