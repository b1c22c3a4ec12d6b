"""Which Hub a suite's checkpoints come from: a folder served on this machine, or the real one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass

from workbench.suites import Suite


@contextmanager
def hub_of(suite: Suite) -> Iterator[str | None]:
    """The endpoint to give to the Hub's client while in use; None is the client's own."""
    if suite.local_hub is None:
        yield None
        return
    from workbench.hub.server import LocalHub

    with LocalHub(suite.local_hub) as hub:
        reach_directly(hub.endpoint)
        yield hub.endpoint


def reach_directly(endpoint: str) -> None:
    """Keep a proxy that the environment names out of the way to a Hub on this machine."""
    from huggingface_hub import close_session

    host = urlsplit(endpoint).hostname
    proxies = getproxies_environment()
    if host == "127.0.0.1" and proxies and not proxy_bypass(host):
        os.environ["no_proxy"] = ",".join(filter(None, (proxies.get("no"), host)))
        close_session()  # the client read the environment when it opened its session
