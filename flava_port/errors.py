"""What flava_port raises: one short message each, saying what is wrong, where, and what to do.

The exit status of a command is the ``exit_status`` of the error that ended it.
"""


class FlavaPortError(Exception):
    """Base of every error that is about the user's input rather than about a bug."""

    exit_status: int


class InvalidInput(FlavaPortError):
    """The input cannot be read, is not what it was given as, or the command was used wrongly."""

    exit_status = 2


class NotFaithful(FlavaPortError):
    """The input was read, but no conversion of it would be the same model."""

    exit_status = 1
