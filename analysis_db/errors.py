"""Errors of the metrics store: one sentence that says what happened and what to do."""


class StoreError(Exception):
    """The store cannot do what was asked; the command line prints the message and exits with 1."""

    exit_code = 1


class StoreTooNew(StoreError):
    """The file was made by a newer version than this one; nothing was touched."""


class StoreBusy(StoreError):
    """Another process held the file for longer than we are willing to wait."""


class QueryError(StoreError):
    """A query of the user's is wrong, not allowed, or took too long."""


def memory_limit(memory_gb: int) -> QueryError:
    """The error of a query that exceeds its memory limit."""
    return QueryError(
        f"The query needs more than {memory_gb} GB, the memory limit: ask for less, or raise the "
        f"limit, e.g. `workbench sql --memory {2 * memory_gb}`."
    )
