"""Start the Streamlit app as a process of its own."""

import os
import socket
import subprocess
import sys

from app.options import streamlit_arguments
from workbench.errors import WorkbenchError
from workbench.settings import Home


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
    command = [sys.executable, "-m", *streamlit_arguments(port, host)]
    environment = os.environ | {"WORKBENCH_HOME": str(home.root)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        return 0
