"""lm-eval's tasks with our models (extra: eval): its tasks and metrics, our engine, and data from local files."""
