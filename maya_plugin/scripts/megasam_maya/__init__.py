"""The artist half: Maya shelf, dialog and bake."""
