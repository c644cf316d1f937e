"""One thin file a command: read the options, ask `analyses` or `model`, hand the answer to the console."""
