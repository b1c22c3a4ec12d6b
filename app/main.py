"""The dashboard's entry: `streamlit run app/main.py`, store under WORKBENCH_HOME. Read-only."""

from datetime import UTC, datetime

import streamlit as st

from analysis_db.errors import StoreError
from app.components import nothing
from app.data import load, one_connection, store_path
from app.escape import md, plain

PAGES = [
    st.Page("screens/overview.py", title="Overview", default=True),
    st.Page("screens/weights.py", title="Weights", url_path="weights"),
    st.Page("screens/changes.py", title="Changes", url_path="changes"),
    st.Page("screens/activations.py", title="Activations", url_path="activations"),
    st.Page("screens/loss.py", title="Loss", url_path="loss"),
    st.Page("screens/training.py", title="Training runs", url_path="training"),
    st.Page("screens/benchmarks.py", title="Benchmarks", url_path="benchmarks"),
    st.Page("screens/data_mix.py", title="Data mix", url_path="data-mix"),
    st.Page("screens/moved.py", title="What moved along", url_path="moved"),
    st.Page("screens/probe.py", title="Any probe", url_path="probe"),
    st.Page("screens/sql.py", title="SQL", url_path="sql"),
]
# Streamlit leaves six empty lines above a page; the charts need the room.
STYLE = """
[data-testid="stMainBlockContainer"] { padding-top: 2.5rem; padding-bottom: 3rem; }
[data-testid="stMetricValue"] { font-size: 1.6rem; }
[data-testid="stSidebarHeader"] { height: 2rem; }
"""


def choose_suite() -> bool:
    """The sidebar: which suite, which store. False if the store holds no suite."""
    suites = load("suites")
    if suites.empty:
        return False
    names = suites["suite"].tolist()
    with st.sidebar:
        chosen = st.selectbox(
            "Suite",
            names,
            format_func=plain,
            key="suite",
            bind="query-params",
            disabled=len(names) == 1,
        )
        changed = datetime.fromtimestamp(store_path().stat().st_mtime, UTC)
        st.caption(
            md(
                "Store {:code}, changed {:%Y-%m-%d %H:%M} UTC. Read-only.",
                store_path().name,
                changed,
            )
        )
    st.session_state["chosen_suite"] = chosen or names[0]
    return True


def main() -> None:
    st.set_page_config(page_title="Training-Dynamics Workbench", layout="wide")
    st.html(f"<style>{STYLE}</style>")
    page = st.navigation({"Training-Dynamics Workbench": PAGES})
    if not store_path().exists():
        st.header("Nothing here yet", anchor=False)
        nothing(f"There is no metrics store at {store_path()}.", "workbench demo")
        st.caption(
            "The demo trains a tiny model through 27 phases, offline, and takes some minutes. "
            "If your store lies elsewhere, start the dashboard with WORKBENCH_HOME set to it."
        )
        return
    try:
        with one_connection():
            if choose_suite() or page.url_path == "training":  # a run need not belong to a suite
                page.run()
            else:
                st.header("The store is empty", anchor=False)
                nothing("The metrics store holds no suite yet.", "workbench demo")
    except StoreError as error:
        st.error(md("{}", error))


main()
