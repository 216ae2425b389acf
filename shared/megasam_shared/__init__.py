"""What client and server agree on: settings, messages, coordinates, results.

Standard library, msgpack and pyzmq only.
"""

__version__ = "0.1.0"
