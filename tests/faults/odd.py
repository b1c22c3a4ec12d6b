"""A suite of one sound phase and many whose Hub answers what no Hub answers."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.faults import json_body, later, replace
from tests.faults.faulty_hub import Exchange, Fault, FaultyHub, Rule
from tests.fixtures.tiny_checkpoint import write_llama
from workbench.hub.server import LocalHub

DEEP = "[" * 200_000 + "]" * 200_000
SOUND = "Sound"
WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"


@dataclass(frozen=True)
class Odd:
    """What is odd about a repository, and what has to be said of it."""

    says: str
    """A pattern; the empty one is for what is unusual and right."""
    listing: Fault | None = None
    """Instead of the model info."""
    tree: Fault | None = None
    """Instead of its tree; the model info is then without hashes."""
    files: dict[str, bytes] = field(default_factory=dict)
    """That are written over those of the sound phase."""


def info(change: Callable[[dict[str, Any]], object]) -> Fault:
    """The model info, changed."""

    def edit(body: bytes) -> bytes:
        model = json.loads(body)
        change(model)
        return json.dumps(model).encode()

    return replace(edit)


def first(**fields: Any) -> Fault:
    """The model info with other fields of its first file."""
    return info(lambda model: model["siblings"][0].update(fields))


def bare(exchange: Exchange) -> None:
    """The model info without sizes and hashes, as some mirrors answer."""
    exchange.handler.path = exchange.handler.path.partition("?")[0]
    exchange.handler.pass_on(exchange.hub.upstream)


def entries(change: Callable[[list[Any]], object]) -> Fault:
    """The tree, changed."""

    def edit(body: bytes) -> bytes:
        listed = json.loads(body)
        change(listed)
        return json.dumps(listed).encode()

    return replace(edit)


def linked(link: Callable[[str], str], *, cut: bool = True) -> Fault:
    """The tree in two pages; ``link`` makes the header of the first from the second's address.

    ``cut`` False leaves all files on the first page.
    """

    def fault(exchange: Exchange) -> None:
        status, headers, body = exchange.answer()
        listed = json.loads(body)
        second = "cursor=" in exchange.handler.path
        here = listed[3:] if second and cut else listed[:3] if cut else listed
        if not second or not cut:
            headers = headers | {"Link": link(f"{exchange.handler.path}&cursor=x")}
        exchange.send((status, headers, json.dumps(here).encode()))

    return fault


def index(name: Any) -> dict[str, bytes]:
    """An index that names one file for a tensor, beside the weights."""
    return {INDEX: json.dumps({"weight_map": {"a": name}}).encode()}


NO_HUB = r"what answered is not a Hub \(%s"

LISTINGS: dict[str, Odd] = {
    "entries-no-objects": Odd(NO_HUB % "its list of files", info(lambda m: m.update(siblings=[5]))),
    "size-null": Odd(NO_HUB % r"it lists the file .* with the size null", first(size=None)),
    "size-negative": Odd(NO_HUB % r"it lists the file .* with the size -5", first(size=-5)),
    "size-huge": Odd(NO_HUB % r"it lists the file .* with the size 10{18}\)", first(size=10**18)),
    "size-true": Odd(NO_HUB % r"it lists the file .* with the size true", first(size=True)),
    "size-fraction": Odd(NO_HUB % r"it lists the file .* with the size 1\.5", first(size=1.5)),
    "hash-number": Odd(NO_HUB % r"it lists the file .* with the hash 7", first(blobId=7, lfs=None)),
    "lfs-number": Odd(NO_HUB % r"it lists the file .* with the lfs 7", first(lfs=7)),
    "name-number": Odd(NO_HUB % r"it lists a file 7", first(rfilename=7)),
    "name-escapes": Odd(NO_HUB % r"it lists a file .*\\u001b", first(rfilename="\x1b[31mred")),
    "name-half": Odd(NO_HUB % r"no JSON came: it holds half", first(rfilename="\ud800")),
    "twice": Odd(
        NO_HUB % r"it lists .* twice", info(lambda m: m["siblings"].append(m["siblings"][0]))
    ),
    "deep-info": Odd(NO_HUB % "no JSON came: it is nested too deeply", json_body(DEEP)),
    "deep-error": Odd(
        r"the Hub refused \(404 Not Found\)", lambda e: e.send((404, {}, DEEP.encode()))
    ),
    "odd-error": Odd(
        r"the Hub refused \(400 Bad Request\)", lambda e: e.send((400, {}, b'{"errors": 5}'))
    ),
    "a-day": Odd(r"the Hub asks to wait 1 day \(429 Too Many Requests\)", later(86_400)),
    "tree-no-objects": Odd(NO_HUB % "its list of files", tree=entries(lambda t: t.append(5))),
    "tree-no-list": Odd(NO_HUB % "a page of its list is no list", tree=json_body("{}")),
    "tree-type": Odd(
        NO_HUB % 'it lists something of the type "link"',
        tree=entries(lambda t: t[0].update(type="link")),
    ),
    "tree-size-null": Odd(
        NO_HUB % "it lists the file .* size null",
        tree=entries(lambda t: [entry.update(size=None) for entry in t]),
    ),
    "deep-tree": Odd(NO_HUB % "no JSON came: it is nested too deeply", tree=json_body(DEEP)),
    "next-is-here": Odd(
        NO_HUB % "its next page is one it has sent before",
        tree=linked(lambda at: f'<{at.replace("&cursor=x", "")}>; rel="next"', cut=False),
    ),
    "next-is-empty": Odd(
        NO_HUB % "its next page is one it has sent before",
        tree=linked(lambda at: '<>; rel="next"', cut=False),
    ),
    "next-for-ever": Odd(
        NO_HUB % "its list has more than 1,000 pages",
        tree=linked(lambda at: f'<{at}>; rel="next"', cut=False),
    ),
    "next-by-tls": Odd(
        NO_HUB % "its next page is at ",
        tree=linked(lambda at: f'<https://127.0.0.1{at}>; rel="next"'),
    ),
    "next-is-no-address": Odd(
        NO_HUB % "the address of its next page is none",
        tree=linked(lambda at: '<http://[::1>; rel="next"'),
    ),
    "next-relative": Odd("", tree=linked(lambda at: f'<{at}>; rel="next"')),
    "next-in-capitals": Odd("", tree=linked(lambda at: f'<{at}>; rel="Next last"')),
    "next-not-meant": Odd(
        "", tree=linked(lambda at: f'<http://elsewhere.invalid{at}>; rel="prev"', cut=False)
    ),
}
FILES: dict[str, Odd] = {
    "deep-config": Odd("config.json is not valid JSON", files={"config.json": DEEP.encode()}),
    "odd-config": Odd("knows no architecture", files={"config.json": b'{"model_type": []}'}),
    "config-no-object": Odd("config.json holds no JSON object", files={"config.json": b"5"}),
    "deep-header": Odd(
        f"{WEIGHTS} is .*nested too deeply",
        files={WEIGHTS: len(DEEP).to_bytes(8, "little") + DEEP.encode()},
    ),
    "deep-index": Odd(f"{INDEX} is not valid JSON", files={INDEX: DEEP.encode()}),
    **{
        f"shard-{number}": Odd(f"{INDEX} names .* its own folder", files=index(name))
        for number, name in enumerate(
            (
                "../../../models--owner--Sound/snapshots/x/model.safetensors", "/etc/passwd",
                "sub/model.safetensors", "..\\model.safetensors", ".", "..", "", 7, None,
                ["model.safetensors"], "config.json", "pytorch_model.bin",
                f"{'x' * 300}.safetensors", "a\x1b.safetensors",
            )
        )
    },
}  # fmt: skip


@dataclass
class Odds:
    """The suite, whose phase 1 is sound."""

    home: Path
    hub: FaultyHub
    names: list[str]
    """Of the repositories, in the order of the phases."""

    def phase(self, name: str) -> int:
        return self.names.index(name) + 1


@contextmanager
def serve(folder: Path, odd: dict[str, Odd]) -> Iterator[Odds]:
    """A Hub with all the repositories, and a home whose suite ``odd`` names them."""
    sound = write_llama(folder / "hub" / "owner" / SOUND, num_hidden_layers=1)
    rules: list[Rule] = []
    for name, what in odd.items():
        repository = folder / "hub" / "owner" / name
        shutil.copytree(sound, repository)
        for file, content in what.files.items():
            (repository / file).write_bytes(content)
        at = f"/api/models/owner/{name}/*"
        if listing := what.listing or (bare if what.tree else None):
            rules.append(Rule(listing, kind="info", path=at, times=None))
        if what.tree:
            rules.append(Rule(what.tree, kind="tree", path=at, times=None))
    names = [SOUND, *odd]
    home = folder / "home"
    (home / "suites").mkdir(parents=True)
    (home / "suites" / "odd.toml").write_text('title = "Odd"\nphases = "odd.csv"\n')
    rows = [f"{number},owner/{name}\n" for number, name in enumerate(names, 1)]
    (home / "suites" / "odd.csv").write_text("phase,repo_id\n" + "".join(rows))
    with LocalHub(folder / "hub") as upstream, FaultyHub(upstream.endpoint, tuple(rules)) as hub:
        yield Odds(home, hub, names)
