"""For all tests."""

import signal

# Some tests press Ctrl-C. A job that a shell started in the background ignores it, and so would
# every test and process that is started from there.
signal.signal(signal.SIGINT, signal.default_int_handler)
