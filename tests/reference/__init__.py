"""Does `flava_port.original` compute FLAVA? Judged by hand, and by the authors' public code."""
