"""`lengthwise probe`: the same input under several limits, and what the limit alone does to time. Here are its flags.

Layer: lab. What it needs beyond the standard library is imported when it runs. Exit codes: 0 carried out, as far as the budget went; 1 no answer, interrupted, or nothing but failures; 2 usage.

    {"schema": 1,
     "arms": [{"max_tokens": N, "n": k, "cut_share": x | null, "case": "A" | "B" | null, "output_tokens_mean": x | null,
               "ttft_p50_s": x | null, "tpot_s": x | null, "e2e_p50_s": x | null}],
     "comparisons": [{"arm": N, "reference": M, "outcome": "ttft" | "tpot" | "e2e", "difference_s": x,
                      "ci95": [low, high] | null, "verdict": "different" | "equivalent" | "undecided", "margin_s": x}]}

The reference is the largest limit, `difference_s` is arm minus reference. Nothing is known (null) without an answer.
"""

import argparse
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

__all__ = ["add_arguments", "run"]

_PROMPT: Final = "Explain how a suspension bridge carries its load, and what happens to it in wind, heat and frost."
_LARGEST_LIMIT: Final = 10_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `lengthwise probe`."""
    add = parser.add_argument
    add(
        "--base-url", type=_base_url, required=True, metavar="URL", help="as an SDK takes it: https://api.openai.com/v1"
    )
    add("--model", required=True, metavar="NAME", help="the model to ask")
    add("--limits", type=_limits, required=True, metavar="N,N,...", help="two or more limits, such as 64,256,1024")
    prompt = parser.add_mutually_exclusive_group()
    prompt.add_argument(
        "--prompt", default=_PROMPT, metavar="TEXT", help="the input (default: a question with a long answer)"
    )
    prompt.add_argument("--prompt-file", type=Path, metavar="FILE", help="a file that holds the input")
    add("--blocks", type=_count, default=30, metavar="N", help="answers under every limit (%(default)d)")
    add("--concurrency", type=_count, default=4, metavar="N", help="requests at a time (%(default)d)")
    add(
        "--cache",
        choices=("bust", "warm"),
        default="bust",
        help="bust: a nonce in front of every input, so that no cache knows it; warm: the same bytes (%(default)s)",
    )
    add("--budget-requests", type=_count, metavar="N", help="never more requests (default: what the blocks need)")
    add("--budget-tokens", type=_count, metavar="N", help="never more tokens, input and output (default: likewise)")
    add(
        "--field",
        choices=("auto", "max_tokens", "max_completion_tokens"),
        default="auto",
        help="the limit's field; auto: max_tokens, unless it is refused (%(default)s)",
    )
    add(
        "--api-key-env",
        metavar="NAME",
        help="variable that holds the credential (default: OPENAI_API_KEY, where it is set)",
    )
    add("--json", metavar="FILE", help="write the figures as JSON; - : to stdout, and nothing else there")
    add("--html", type=Path, metavar="FILE", help="write a page with the picture, whole in itself")
    add("--yes", action="store_true", help="do not ask before it starts; nor is asked without a terminal")


def run(arguments: argparse.Namespace) -> int:
    """Carry the probe out; the exit code."""
    from proxy.lab import probe_run  # noqa: PLC0415 -- an extra

    return probe_run.run(arguments)


def _base_url(text: str) -> str:
    try:
        parts = urlsplit(text)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        usable, parts = False, urlsplit("")
    if "@" in parts.netloc:
        raise argparse.ArgumentTypeError("holds a credential; put that into the variable that --api-key-env names")
    if not usable or parts.query or parts.fragment:
        raise argparse.ArgumentTypeError(f"expected a URL such as https://api.openai.com/v1, found {text!r}")
    return text.rstrip("/")


def _limits(text: str) -> tuple[int, ...]:
    limits = [_limit(part.strip()) for part in text.split(",")]
    if len(set(limits)) < 2:
        raise argparse.ArgumentTypeError(f"expected at least two different limits such as 64,256, found {text!r}")
    if len(set(limits)) < len(limits):
        raise argparse.ArgumentTypeError(f"a limit occurs twice in {text!r}")
    return tuple(sorted(limits))


def _limit(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= _LARGEST_LIMIT and len(text) < 9):
        raise argparse.ArgumentTypeError(
            f"expected whole numbers from 1 to {_LARGEST_LIMIT:,} such as 64,256,1024, found {text!r}"
        )
    return int(text)


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0):
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, found {text!r}")
    return int(text)
