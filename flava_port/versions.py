"""Which releases are installed: their metadata, read once, without importing them."""

from functools import cache
from importlib import metadata

version = cache(metadata.version)


def recorded_versions() -> dict[str, str]:
    """What a conversion and a certificate record of their circumstances."""
    return {name: version(name) for name in ("flava-port", "transformers", "torch", "safetensors")}
