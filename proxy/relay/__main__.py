"""`python -m proxy.relay --control FD`: a relay worker, as the supervisor starts it."""

import argparse
import gc

gc.disable()  # until it serves: what imports make stays, and looking for garbage in it is a twentieth of a start

from proxy.relay.worker import run  # noqa: E402 -- see above

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m proxy.relay", description=__doc__)
    parser.add_argument("--control", type=int, required=True, metavar="FD", help="inherited socket to the supervisor")
    run(parser.parse_args().control)
