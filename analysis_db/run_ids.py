"""Ids of runs, in the order of time."""

import secrets
from datetime import datetime

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def new_run_id(started_at: datetime) -> str:
    """8 signs of time (milliseconds, base 36) and 16 random ones: unique, and sorted by start.

    DuckDB keeps the least and the greatest value of each stretch of rows, of text the first 8
    bytes: the stretches that hold a run are found by these alone. (The first 8 signs of a UUIDv7
    change once a minute.)
    """
    left, time = int(started_at.timestamp() * 1000), ""
    for _ in range(8):
        left, digit = divmod(left, 36)
        time = _DIGITS[digit] + time
    return time + secrets.token_hex(8)
