"""Rows of a frame with their values as plain attributes."""

from collections.abc import Iterator
from typing import Any

import pandas as pd


def rows_of(frame: pd.DataFrame) -> Iterator[Any]:
    """Each row as a named tuple; its fields hold whatever the column holds, so they are Any."""
    return frame.itertuples(index=False)
