"""What changes from release to release of transformers and torch: observed, compared, bisected."""
