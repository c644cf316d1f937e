"""The command line: one thin file a command; the work itself is in `analyses` and `model`."""
