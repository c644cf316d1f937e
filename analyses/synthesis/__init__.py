"""What became of a synthesis: its funnel, domains, difficulty, votes, and how good the filters were."""
