"""The escape functions, and that no page passes other text to a slot that renders Markdown."""

import ast
import shlex
from pathlib import Path

import pytest

from app.escape import Markdown, joined, md, plain, pseudo_html, shell
from tests.app.reading import shown

APP = Path(__file__).parents[2] / "app"
RENDERING = {
    "markdown", "caption", "title", "header", "subheader", "info", "warning", "error", "success",
    "expander", "metric", "button", "radio", "toggle", "checkbox", "pills", "segmented_control",
    "tabs", "popover", "toast", "badge", "progress", "spinner", "status", "link_button",
    "page_link", "feedback", "select_slider", "slider", "text_area", "text_input",
    "selectbox", "multiselect", "download_button", "form_submit_button", "number_input",
}  # fmt: skip
"""Functions of Streamlit whose first argument is rendered as Markdown, their labels included."""
OPTIONS_ARE_PLAIN = ("selectbox", "multiselect")


def test_plain_shows_what_is_hidden():
    assert plain("a\u202eb\x07c\u200bd\ud800") == "a\\u202eb\\x07c\\u200bd\\ud800"
    assert plain(" a\n\n# b\t c\u2028d ") == "a # b c d"
    assert plain("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645") == (
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"
    )


@pytest.mark.parametrize(
    "text", ["layer_0*q", "$5_x", "a -> b", "x@y.z", "https://h/p", "``", "1."]
)
def test_markdown_keeps_the_text(text):
    assert shown(md("{}", text)) == text
    assert md("{}", text) != text


def test_markdown_escapes_values_and_neither_template_nor_markdown_nor_numbers():
    assert md("**{}** {:,} {:.1f}", "*", 1234, -0.25) == r"**\*** 1,234 -0.2"
    assert md("{} {}", md("**{}**", "_"), "_") == r"**\_** \_"
    assert joined([md("a"), md("{}", "|")], ", ") == r"a, \|"


@pytest.mark.parametrize(
    ("text", "span"),
    [("w^2", "`w^2`"), ("a `b`", "`` a `b` ``"), ("a``b", "```a``b```"), ("", "")],
)
def test_code_span_has_more_backticks_than_its_text(text, span):
    assert md("{:code}", text) == span


def test_code_span_with_an_icon_is_escaped_text():
    assert shown(md("{:code}", ":material/home:")) == ":material/home:"


def test_pseudo_html_and_shell():
    assert pseudo_html("<b>&lt;\n%{y}") == "&lt;b&gt;&amp;lt; %{y}"
    assert shlex.split(f"workbench probe {shell('a; rm -rf $HOME')}")[2] == "a; rm -rf $HOME"


def pages():
    return [path for path in sorted(APP.rglob("*.py")) if "figures" not in path.parts]


def returns_markdown():
    """Functions of the app that are declared to return ``Markdown``."""
    return {
        node.name
        for path in pages()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
        and isinstance(node.returns, ast.Name)
        and node.returns.id == "Markdown"
    }


def is_safe(node, functions):
    if isinstance(node, ast.Constant):
        return True
    if isinstance(node, ast.IfExp):
        return is_safe(node.body, functions) and is_safe(node.orelse, functions)
    if isinstance(node, ast.Name):
        return node.id.isupper()  # a constant of the module
    return (
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in functions
    )


def unescaped(source, functions):
    """The arguments of Markdown slots that are neither literal nor made by an escape function."""
    wrong = []
    for call in ast.walk(ast.parse(source)):
        if not isinstance(call, ast.Call):
            continue
        slots = []
        name = call.func.attr if isinstance(call.func, ast.Attribute) else ""
        if name in RENDERING:
            slots += call.args[: 3 if name == "metric" else 1]
            slots += [k.value for k in call.keywords if k.arg in ("label", "body", "help")]
            formats = [k.value for k in call.keywords if k.arg == "format_func"]
            if name in OPTIONS_ARE_PLAIN and not (formats or len(call.args) > 3):
                wrong.append(ast.unparse(call))
        if isinstance(call.func, ast.Name) and call.func.id == "md":
            wrong += [] if isinstance(call.args[0], ast.Constant) else [ast.unparse(call)]
        if isinstance(call.func, ast.Name) and call.func.id == "Markdown":
            wrong.append(ast.unparse(call))
        wrong += [ast.unparse(slot) for slot in slots if not is_safe(slot, functions)]
        wrong += [ast.unparse(k) for k in call.keywords if k.arg == "unsafe_allow_html"]
    return wrong


# ``pick`` passes on the literal label and help of its callers.
PASSED_ON = {"label", "help", "f'Data (CSV, {len(frame):,} rows)'"}


@pytest.mark.parametrize("path", pages(), ids=lambda path: path.name)
def test_markdown_slots_take_literals_and_escaped_text(path):
    if path.name == "escape.py":
        return
    found = unescaped(path.read_text(encoding="utf-8"), returns_markdown() | {"md", "joined"})
    allowed = PASSED_ON if path.name == "components.py" else set()
    assert set(found) <= allowed


@pytest.mark.parametrize(
    "line",
    [
        "st.caption(f'{name}')", "st.error(str(error))", "left.header(title)", "md(f'{name}')",
        "st.button('Run', help=about)", "st.metric('Runs', runs)", "st.caption('a' + name)",
        "Markdown(name)", "st.selectbox('Run', names)", "st.markdown(' '.join(notes))",
    ],
)  # fmt: skip
def test_the_check_finds(line):
    assert unescaped(line, {"md", "joined"})


def test_markdown_is_a_string_that_streamlit_takes():
    assert isinstance(md("a"), Markdown)
    assert isinstance(md("a"), str)
