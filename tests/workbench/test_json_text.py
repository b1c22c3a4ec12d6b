"""JSON from outside: what is parsed, and why the rest is refused."""

import json

import pytest

from workbench import json_text
from workbench.json_text import DEEPEST, InvalidJSON, parse_json


def nested(levels: int) -> str:
    return "[" * levels + "]" * levels


@pytest.mark.parametrize(
    "text", ["5", "null", '{"a": [1.5, "b"]}', nested(DEEPEST), '"\\ud83d\\ude00"', "1e400"]
)
def test_what_is_parsed(text: str) -> None:
    assert parse_json(text) == parse_json(text.encode()) == json.loads(text)
    assert parse_json(b"\xef\xbb\xbf" + text.encode()) == json.loads(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (nested(DEEPEST + 1), "nested too deeply"),
        ('{"a":' * (DEEPEST + 1) + "1" + "}" * (DEEPEST + 1), "nested too deeply"),
        (nested(200_000), "nested too deeply"),
        ("[" * 200_000, "nested too deeply"),
        ("{", "Expecting property name"),
        ("", "Expecting value"),
        (b"\xff", "byte 0 is not UTF-8"),
        ('"\\ud800"', "half of a surrogate pair"),
        ('{"\\uDFFF": 1}', "half of a surrogate pair"),
        ("9" * 5000, "digits"),
    ],
)
def test_what_is_refused(text: str | bytes, says: str) -> None:
    with pytest.raises(InvalidJSON, match=says):
        parse_json(text)


def test_no_longer_text_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_text, "LONGEST", 4)
    assert parse_json("1234") == 1234
    with pytest.raises(InvalidJSON, match="it has 5 bytes, and at most 4"):
        parse_json("12345")
