"""`python -m proxy.relay --control FD`: a relay worker, as the supervisor starts it."""

import argparse

from proxy.relay.worker import run

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m proxy.relay", description=__doc__)
    parser.add_argument("--control", type=int, required=True, metavar="FD", help="inherited socket to the supervisor")
    run(parser.parse_args().control)
