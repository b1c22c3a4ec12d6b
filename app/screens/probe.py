"""Any probe: the values of whatever probe has measured the suite, other packages' included."""

from app.components import heading, nothing, pick
from app.data import load, suite
from app.escape import shell
from app.explorer import choose, explore

OWN_PAGE = ("activations", "attention", "loss", "spectra", "weights")


def page() -> None:
    name = suite()
    heading(
        "Any probe", "Every value of every probe, also of those that have no page of their own."
    )
    probes = sorted(load("probes_with_values", name)["probe"], key=lambda p: (p in OWN_PAGE, p))
    if not probes:
        nothing("Nothing has been measured of this suite.", f"workbench probe {shell(name)}")
        return
    probe = pick("Probe", probes, "any_probe")
    key = f"any_{probe}"
    choice = choose(name, probe, key, metric="", module="")
    if choice is not None:
        explore(name, choice, key)


page()
