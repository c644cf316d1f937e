"""A run of three stages of the tiny model."""


def three(text, other) -> list[dict]:
    """Pre-training, annealing at a tenth of the rate, and four times the context with another base and mixture."""
    return [
        {"name": "pretrain", "share": 0.4, "learning_rate": 4e-3, "final_learning_rate": 2e-3, "warmup_fraction": 0.4},
        {"name": "anneal", "share": 0.25, "learning_rate": 4e-4, "final_learning_rate": 4e-5},
        {
            "name": "long", "share": 0.35, "context": 128, "rope_theta": 80_000.0, "recompute": True,
            "sources": [str(text), str(other)], "weights": [0.25, 0.75], "learning_rate": 1e-4,
        },
    ]  # fmt: skip
