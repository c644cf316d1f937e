"""The options of the commands: sizes as users type them, what commands share, and one file for a command with many."""
