"""Post-training: how far a reward model can be believed."""
