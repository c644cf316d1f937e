"""What a model takes of a memory: keys and values, parameters, and what can be served or trained in it."""
