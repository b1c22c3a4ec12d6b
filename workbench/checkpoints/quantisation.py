"""Which checkpoints are quantised: their numbers are no weights without scales, and are refused."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from workbench.errors import CheckpointError

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_PACKED = (torch.int8, torch.uint8, torch.int32, torch.float8_e4m3fn, torch.float8_e5m2)
"""What quantised matrices are stored in, under the matrix's name or one of the method's own."""
QUANTISATION_FIELDS = ("quantization_config", "compression_config")


def refuse_quantised_config(config: Mapping[str, Any], what: str) -> None:
    """Raise CheckpointError, which names the quantisation, if config.json states one."""
    stated = next((config[field] for field in QUANTISATION_FIELDS if config.get(field)), None)
    if stated is not None:
        raise _refusal(what, f"config.json states a quantisation ({_named(stated)})")


def refuse_quantised_tensors(
    dtypes: Mapping[str, torch.dtype], parameters: Iterable[str], what: str
) -> None:
    """Raise CheckpointError, which names the first such tensor, if weights are quantised.

    ``parameters`` are the tensors that the model has, which must be floats of 16 bits or more.
    """
    wanted = set(parameters)
    for name, dtype in dtypes.items():
        if dtype in _PACKED or (name in wanted and dtype not in _FLOATS):
            stored = str(dtype).removeprefix("torch.")
            raise _refusal(what, f"the weights are quantised ({name} is stored as {stored})")


def _named(stated: Any) -> str:
    """Such as ``gptq, 4 bits``."""
    if not isinstance(stated, Mapping):
        return "of an unnamed method"
    method = stated.get("quant_method") or stated.get("format") or "of an unnamed method"
    bits = stated.get("bits") or next((n for n in (4, 8) if stated.get(f"load_in_{n}bit")), None)
    return str(method)[:40] + (f", {str(bits)[:10]} bits" if bits else "")


def _refusal(what: str, problem: str) -> CheckpointError:
    return CheckpointError(
        f"{what}: {problem}, and without their scales such numbers are no weights; choose the "
        "checkpoint before quantisation, or save a copy that is dequantised to 16 or 32 bits."
    )
