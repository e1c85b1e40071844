"""The proof that a converted folder is the original model: weights, config, computation."""
