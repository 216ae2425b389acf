"""For all tests."""

import signal

# A runner started in the background hands down "ignore Ctrl-C", and commands under test would
# inherit it. With a handler here, what the tests start gets the system's default instead.
signal.signal(signal.SIGINT, signal.default_int_handler)
