"""Finds the model in whatever file or folder it stands: which keys are its own, and what stands beside it."""
