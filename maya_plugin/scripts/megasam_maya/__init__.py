"""The artist half: Maya shelf, dialog and bake."""

from megasam_maya import vendored

# Here and not in an entry point: whatever of this package is imported first may need pyzmq.
vendored.add_to_path()
