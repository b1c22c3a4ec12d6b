"""Errors that are meant for the user: one sentence that says what happened and what to do."""


class WorkbenchError(Exception):
    """Something failed; the command line prints the message alone and exits with 1."""

    exit_code = 1


class UsageError(WorkbenchError):
    """The user asked for something that does not exist; the command line exits with 2."""

    exit_code = 2


class CheckpointError(WorkbenchError):
    """A checkpoint on disk cannot be used; the message names the file."""
