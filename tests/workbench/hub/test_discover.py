"""Listing the refs of a repository: answers that are wrong, over real HTTP."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from huggingface_hub import constants

from workbench.hub import transfer
from workbench.hub.discover import list_refs
from workbench.hub.failures import HubError

COMMIT = "a" * 40
Answers = Callable[..., None]


def answer(*branches: tuple[Any, Any]) -> bytes:
    """An answer of the Hub; the tag v1 has the name of a branch where one is called so."""
    listed = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": c} for n, c in branches]
    tag = {"name": "v1", "ref": "refs/tags/v1", "targetCommit": "b" * 40}
    return json.dumps({"branches": listed, "tags": [tag], "converts": []}).encode()


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Answers]:
    """Say what the Hub answers, one (status, body, headers) after the other, the last for ever."""
    script: list[tuple[int, bytes, dict[str, str]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body, headers = script.pop(0) if len(script) > 1 else script[0]
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setattr(transfer, "WAITS", (0.01,) * 4)

    def say(*told: tuple[int, bytes] | tuple[int, bytes, dict[str, str]]) -> None:
        script[:] = [(t[0], t[1], t[2] if len(t) == 3 else {}) for t in told]  # type: ignore[misc]

    yield say
    server.shutdown()
    server.server_close()


def test_branches_go_before_tags(answers: Answers) -> None:
    answers((200, answer(("main", COMMIT), ("a/b", COMMIT))))
    assert list_refs(["o/m"]) == {"o/m": {"v1": "b" * 40, "main": COMMIT, "a/b": COMMIT}}
    answers((200, answer(("v1", COMMIT))))
    assert list_refs(["o/m"]) == {"o/m": {"v1": COMMIT}}


def test_faults_that_pass_are_waited_for(answers: Answers) -> None:
    busy = (429, b"{}", {"Retry-After": "0"})
    answers((503, b""), busy, (500, b"{}"), (200, answer(("main", COMMIT))))
    assert list_refs(["o/m"])["o/m"]["main"] == COMMIT


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ((503, b""), "the Hub refused .*try again later"),
        ((404, b"{}", {"X-Error-Code": "RepoNotFound"}), "has no public repository o/m"),
        ((403, b"{}", {"X-Error-Code": "GatedRepo"}), "o/m is gated: accept its terms"),
        ((200, b"<html>Log in</html>"), "what answered is not a Hub"),
        ((200, b"[]"), "what answered is not a Hub"),
        ((200, b'{"branches": []}'), "what answered is not a Hub"),
        ((200, answer(("../../x", COMMIT))), r"not a Hub \(it names a revision '../../x'"),
        ((200, answer(("main", "../x"))), r"not a Hub \(it names a commit '../x'"),
        ((200, answer(("main", None))), "not a Hub"),
        ((200, answer((5, COMMIT))), "it names a revision 5"),
    ],
)
def test_a_wrong_answer_is_one_sentence(answers: Answers, told: tuple[Any, ...], says: str) -> None:
    answers(told)
    with pytest.raises(HubError, match=f"The revisions of o/m cannot be listed: .*{says}") as wrong:
        list_refs(["o/m"])
    assert "\n" not in str(wrong.value)


def test_a_name_that_is_none(answers: Answers) -> None:
    answers((200, answer()))
    with pytest.raises(HubError, match="cannot be a repository's name: correct it in the suite"):
        list_refs(["o/m/n"])
