"""``python -m flava_port``, the same as ``flava-port``."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
