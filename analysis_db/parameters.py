"""Values of a query's parameters, as people type them."""

import json
from typing import Any


def typed(text: str) -> Any:
    """What JSON makes of it (a number, true, false, null, a list, quoted text); else the text.

    ``007`` and ``NaN`` are text, as JSON knows neither; so is an object in braces.
    """

    def refuse(name: str) -> Any:
        raise ValueError(name)

    try:
        value = json.loads(text, parse_constant=refuse)
    except ValueError:
        return text
    return text if isinstance(value, dict) else value
