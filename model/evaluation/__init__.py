"""How good a model is: generators, readers and scorers of benchmarks, each beside the paper or program it follows."""
