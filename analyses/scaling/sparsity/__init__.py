"""The loss as a function of activated parameters, sparsity and tokens, and the best of all three for a budget."""
