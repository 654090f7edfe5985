"""`lengthwise demo`: the simulated provider, Lengthwise in front of it, traffic and a probe, and the answer to the question.

Layer: lab. Both are started as a user starts them, as processes of their own on free ports of the loopback interface, in a
folder of their own, without anything of the user's configuration. Every number of the traffic is read from the ledger that
Lengthwise wrote; the client that sends it measures nothing. The probe measures for itself. Needs no network.
"""

import argparse
import asyncio
import shutil
import sys
import tempfile
from pathlib import Path

from proxy.lab.asking import AskError
from proxy.lab.children import ChildError, log_tails

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `lengthwise demo`."""
    parser.add_argument(
        "--keep",
        type=Path,
        metavar="DIR",
        help="put pages, ledger and logs into this new folder (default: a new one among the temporary files)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the demo; 0 when every request passed and is in the ledger, 1 when not, 2 when it cannot start here."""
    from proxy.lab import demo_run  # noqa: PLC0415 -- an extra

    if arguments.keep is None:
        folder = Path(tempfile.mkdtemp(prefix="lengthwise-demo-"))
    else:
        folder = arguments.keep.absolute()
        try:
            folder.mkdir(parents=True)
        except OSError as error:
            print(f"--keep: {error}", file=sys.stderr)
            return 2
    code = 1
    try:
        code = asyncio.run(demo_run.demo(folder))
    except (ChildError, AskError) as error:
        print(f"demo: {error}", file=sys.stderr)
    except TimeoutError:
        print(f"demo: not done after {demo_run.WHOLE_S:.0f} s{log_tails(folder)}", file=sys.stderr)
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("demo: interrupted", file=sys.stderr)
    finally:
        if code and arguments.keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    return code
