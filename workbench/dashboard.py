"""Start the Streamlit app as a process of its own."""

import os
import socket
import subprocess
import sys

from app.options import MAIN, streamlit_arguments
from workbench.errors import WorkbenchError
from workbench.settings import Home


def start(home: Home, host: str, port: int) -> "subprocess.Popen[bytes]":
    """Start the server so that nothing in the working directory becomes part of it.

    Neither a module there, which ``python -m`` alone would import instead of ours, nor
    ``.streamlit/config.toml``, which can name fonts on another host.
    """
    environment = os.environ | {"WORKBENCH_HOME": str(home.root)}
    if path := os.environ.get("PYTHONPATH"):  # its relative entries are those of our directory
        entries = map(os.path.abspath, path.split(os.pathsep))
        environment["PYTHONPATH"] = os.pathsep.join(entries)
    command = [sys.executable, "-P", "-m", *streamlit_arguments(port, host)]
    return subprocess.Popen(command, env=environment, cwd=MAIN.parent, stdout=subprocess.DEVNULL)


def serve(home: Home, host: str, port: int) -> int:
    """Serve the dashboard until it ends; returns its exit code.

    Raises WorkbenchError when the port is in use.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise WorkbenchError(
                f"Port {port} on {host} cannot be used ({error.strerror}): choose another with "
                f"`workbench app --port {port + 1}`."
            ) from None
    process = start(home, host, port)
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        return 0
