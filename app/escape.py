"""Text from outside, made safe for the slot that shows it.

A name in a store, a log, a repository or a query's answer may hold Markdown, HTML or control
characters. Each slot has its own function, and each shows the name as it is written:

- ``plain``: a slot that shows text as it is, such as the options of a select box.
- ``md``: a slot that renders Markdown: most texts and all labels of Streamlit.
- ``pseudo_html``: a slot of a Plotly figure: names, titles, axis labels, annotations, hover texts.
- ``shell``: an argument of a command that the reader copies.
"""

import html
import re
import shlex
import string
import unicodedata
from collections.abc import Iterable
from numbers import Number
from typing import Any

_JOINERS = "\u200c\u200d"
"""Part of the spelling of Persian and Indic words and of emoji: kept."""
_SPACE = re.compile(r"[\s\x85\u2028\u2029]+")
# Streamlit replaces these after it has resolved the escapes: emoji, icons and its logo by colons,
# bare addresses, and arrows. Only the border of an element keeps them apart.
_LATE = re.compile(r"[:@]|(?<=www)\.|[-<>~](?=[-=>])", re.IGNORECASE)
_PUNCTUATION = re.compile(rf"[{re.escape(string.punctuation)}]")
_ICON = ":material/"


class Markdown(str):
    """Text that a Markdown slot may render: made by ``md`` and ``joined``."""

    __slots__ = ()


def plain(text: object) -> str:
    """The text on one line, with invisible characters written as ``\\u202e``.

    Control characters, those that change the direction of writing, and lone surrogates would hide
    or reorder the text around them.
    """
    return "".join(map(_visible, _SPACE.sub(" ", str(text)))).strip()


def _visible(character: str) -> str:
    hidden = unicodedata.category(character) in ("Cc", "Cf", "Cs")
    if not hidden or character in _JOINERS:
        return character
    return character.encode("unicode_escape").decode()


def md(template: str, /, *values: object) -> Markdown:
    """Fill ``template``, our own Markdown, with escaped values.

    The fields are those of ``str.format``; ``{:code}`` makes a code span of its value. A value that
    is ``Markdown`` is inserted unchanged. The template is always a literal.
    """
    return Markdown(_Formatter().vformat(template, values, {}))


def joined(parts: Iterable[Markdown], separator: str = "  \n") -> Markdown:
    """The parts on lines of their own, or with our own ``separator`` between them."""
    return Markdown(separator.join(parts))


class _Formatter(string.Formatter):
    def format_field(self, value: Any, format_spec: str) -> str:
        if isinstance(value, Markdown):
            return value
        if format_spec == "code":
            return _code(plain(value))
        text = format(value, format_spec)
        return text if isinstance(value, Number) else _escaped(plain(text))


def _escaped(text: str) -> str:
    """``text`` with every construct of Markdown, and of Streamlit's dialect of it, escaped."""
    pieces, end = [], 0
    for late in _LATE.finditer(text):
        pieces += [_PUNCTUATION.sub(r"\\\g<0>", text[end : late.start()]), f":color[\\{late[0]}]"]
        end = late.end()
    return "".join([*pieces, _PUNCTUATION.sub(r"\\\g<0>", text[end:])])


def _code(text: str) -> str:
    """A code span, delimited by more backticks than ``text`` has in a row."""
    if not text or _ICON in text:  # Streamlit replaces the start of an icon in code spans too
        return _escaped(text)
    ticks = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    pad = " " if "`" in (text[0], text[-1]) else ""
    return f"{ticks}{pad}{text}{pad}{ticks}"


def pseudo_html(text: object) -> str:
    """``text`` for a Plotly figure, which renders tags and entities in every text.

    Never part of a template such as ``hovertemplate``, where ``%{...}`` is replaced: a hover text
    goes into ``text`` or ``customdata``.
    """
    return html.escape(plain(text), quote=False)


def shell(argument: object) -> str:
    """``argument`` quoted for a shell."""
    return shlex.quote(str(argument))
