"""What `streamlit run app/main.py` is started with: privacy, quiet, and the look."""

from pathlib import Path

MAIN = Path(__file__).with_name("main.py")

OPTIONS: dict[str, str] = {
    "browser.gatherUsageStats": "false",
    "client.toolbarMode": "minimal",
    "runner.magicEnabled": "false",
    "server.headless": "true",
    "server.fileWatcherType": "none",
    "theme.base": "light",
    "theme.primaryColor": "#0072B2",
    "theme.backgroundColor": "#FFFFFF",
    "theme.secondaryBackgroundColor": "#F3F5F8",
    "theme.textColor": "#1F2933",
    "theme.borderColor": "#DDE2E8",
    "theme.baseRadius": "6px",
    "theme.showWidgetBorder": "true",
    "theme.sidebar.backgroundColor": "#F7F8FA",
}
"""Streamlit's own options by name; the values are as they stand on its command line."""


def streamlit_arguments(port: int, address: str = "127.0.0.1") -> list[str]:
    """The arguments after `python -m`: streamlit, run, the app, and every option."""
    options = {**OPTIONS, "server.address": address, "server.port": str(port)}
    return [
        "streamlit",
        "run",
        str(MAIN),
        *(f"--{name}={value}" for name, value in options.items()),
    ]
