"""The errors that flava_port raises. Each has one short message: what is wrong, where, and what to do."""


class FlavaPortError(Exception):
    """Base of every error that is about the user's input rather than about a bug."""

    exit_status: int  # of a command that ends with it


class InvalidInput(FlavaPortError):
    """The input cannot be read or is not what the user said it is, or the command was used wrongly."""

    exit_status = 2


class NotFaithful(FlavaPortError):
    """The input was read, but no conversion of it would be the same model."""

    exit_status = 1
