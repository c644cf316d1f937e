"""Speed as ratios: to the ceiling of the machine and to a peer, in one run."""
