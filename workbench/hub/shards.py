"""Which files an index of shards may name: weight files beside it, by their plain names."""

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from workbench.text import printable

_LONGEST = 255
"""Bytes of a file name, as file systems have it."""


def is_file_name(name: object) -> bool:
    """Whether it is the plain name of a file: no path, no folder, nothing that leads elsewhere."""
    return (
        isinstance(name, str)
        and name not in ("", ".", "..")
        and not any(c in "/\\" or not c.isprintable() for c in name)
        and len(name.encode()) <= _LONGEST
    )


def foreign_shard(weight_map: Mapping[str, Any], single: str) -> str | None:
    """What is wrong with the first name that may not stand in the index beside ``single``.

    None when every name is that of a weight file in the index's own folder. Anything else could be
    the weights of another checkpoint.
    """
    suffix = PurePosixPath(single).suffix
    for tensor, name in weight_map.items():
        if not is_file_name(name) or PurePosixPath(name).suffix != suffix:
            return (
                f"{single}.index.json names {printable(repr(name))} as the file of "
                f"{printable(tensor)}, which is no {suffix} file of its own folder"
            )
    return None
