"""flava_port: FLAVA checkpoints from the original layout to Hugging Face transformers, and the proof that nothing changed."""

__version__ = "0.1.0"
