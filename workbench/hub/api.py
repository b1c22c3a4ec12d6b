"""Answers of the Hub's API in JSON: bounded in size, depth and pages, and from its host alone."""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urljoin, urlsplit

from workbench.hub.transfer import chunks_of, opened, patiently
from workbench.json_text import InvalidJSON, parse_json
from workbench.text import printable

if TYPE_CHECKING:
    import httpx2

LONGEST = 64 << 20
"""Bytes of an answer, or of all pages of a list; a hundred thousand files take 25 MB."""
PAGES = 1000
"""Pages of one listing; the Hub's have up to a thousand files each."""
_PORTS = {"http": 80, "https": 443}


class OddAnswer(ValueError):
    """What answered is no Hub, or states what cannot be; the message says what."""


def ask(
    repo_id: str, what: str, endpoint: str | None, parameters: Mapping[str, str] | None = None
) -> Any:
    """The answer at ``what`` of the repository's API, such as ``refs``.

    Faults that pass are waited for. Raises OddAnswer for anything but JSON, HFValidationError for
    what cannot be a repository's name, and what the client raises for refusals.
    """
    url = _address(repo_id, what, endpoint, parameters)
    return patiently(lambda: _get(url, LONGEST)[0], first=True)


def ask_pages(
    repo_id: str, what: str, endpoint: str | None, parameters: Mapping[str, str] | None = None
) -> list[Any]:
    """The items of all pages of a list at ``what``; raises what ``ask`` raises.

    A page is followed by the one that its header ``Link`` calls next. Raises OddAnswer for a next
    page at another origin (the user's token goes with the request), for one that was here before,
    and for more than PAGES.
    """
    url = _address(repo_id, what, endpoint, parameters)
    home = _origin(url)
    seen: set[str] = set()
    items: list[Any] = []
    left = LONGEST
    while url:
        if _origin(url) != home:
            raise OddAnswer(f"its next page is at {printable(urlsplit(url).netloc)!r}")
        if url in seen:
            raise OddAnswer("its next page is one it has sent before")
        if len(seen) == PAGES:
            raise OddAnswer(f"its list has more than {PAGES:,} pages")
        seen.add(url)
        page, url, size = patiently(partial(_get, url, left), first=len(seen) == 1)
        left -= size
        if not isinstance(page, list):
            raise OddAnswer("a page of its list is no list")
        items += page
    return items


def _address(
    repo_id: str, what: str, endpoint: str | None, parameters: Mapping[str, str] | None
) -> str:
    from huggingface_hub import constants
    from huggingface_hub.utils import validate_repo_id

    validate_repo_id(repo_id)
    query = f"?{urlencode(parameters)}" if parameters else ""
    return f"{endpoint or constants.ENDPOINT}/api/models/{repo_id}/{what}{query}"


def _get(url: str, longest: int) -> tuple[Any, str, int]:
    """The parsed body, the address of the next page ("" for none) and the body's bytes."""
    body = bytearray()
    with opened(url, {}) as response:
        for chunk in chunks_of(response):
            body += chunk
            if len(body) > longest:
                raise OddAnswer(f"it answers with more than {longest:,} bytes")
        following = _next_page(response)
    try:
        return parse_json(bytes(body)), following, len(body)
    except InvalidJSON as error:
        raise OddAnswer(f"no JSON came: {printable(str(error))}") from None


def _next_page(response: "httpx2.Response") -> str:
    for link in response.links.values():
        if "next" in link.get("rel", "").lower().split():
            try:
                return urljoin(str(response.url), link["url"])
            except ValueError:
                raise OddAnswer("the address of its next page is none") from None
    return ""


def _origin(url: str) -> tuple[str, str, int]:
    try:
        parts = urlsplit(url)
        return parts.scheme, parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError:
        raise OddAnswer("the address of its next page is none") from None
