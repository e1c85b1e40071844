"""Bytes: checkpoints in every format read and written, folders that appear whole or not at all."""
