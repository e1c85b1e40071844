"""The errors that flava_port raises. Each has one short message: what is wrong, where, and what to do."""


class FlavaPortError(Exception):
    """Base of every error that is about what the user gave, or about this machine, rather than about a bug."""

    exit_status: int  # of a command that ends with it


class InvalidInput(FlavaPortError):
    """The input or the output cannot be used: what the user gave, the disk, or the installed transformers."""

    exit_status = 2


class NotFaithful(FlavaPortError):
    """The input was read, but no conversion of it would be the same model."""

    exit_status = 1
