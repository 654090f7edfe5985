"""Entry of the recorder process: `python -m proxy.recorder --control FD`, started by the supervisor."""

import argparse
import asyncio
import logging
import os
import socket

from proxy import logs
from proxy.recorder import export, process
from proxy.settings import Logs


def main() -> int:
    """Run the recorder on the inherited control channel."""
    parser = argparse.ArgumentParser(prog="python -m proxy.recorder", description="Started by `lengthwise serve`.")
    parser.add_argument("--control", type=int, required=True, metavar="FD", help="inherited control channel")
    arguments = parser.parse_args()
    logs.configure(Logs(), "recorder")  # until the settings come
    export.quiet_sdk()
    return asyncio.run(process.run(socket.socket(fileno=arguments.control), os.environ))


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    # an export that hangs keeps a thread of the SDK or of gRPC alive, and a normal exit may wait for it
    os._exit(code)
