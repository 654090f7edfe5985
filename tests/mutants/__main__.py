"""Would the tests have caught it? `python -m tests.mutants [--only WORD] [--list]`.

Copies the repository, checks that the selected tests pass there, then applies each seeded bug, one at a time, and runs the tests that must
notice it. Prints which test killed it; exit 1 when one survives.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.mutants import policy, seeded
from tests.mutants.mutant import Mutant

MUTANTS = (*seeded.MUTANTS, *policy.MUTANTS)
ROOT = Path(__file__).resolve().parents[2]
COPIED = ("proxy", "tests", "config", "pyproject.toml", "README.md")
ONE_S = 180


def _pytest(copy: Path, arguments: Sequence[str]) -> tuple[int, str]:
    """(exit code, what was printed) of the tests of a copy; a hang is a failure."""
    command = [sys.executable, "-P", "-m", "pytest", "-x", "-n", "0", "--tb=no", "-rfE", "-p", "no:cacheprovider"]
    try:
        done = subprocess.run(
            [*command, *arguments], cwd=copy, capture_output=True, text=True, timeout=ONE_S, check=False
        )
    except subprocess.TimeoutExpired:
        return 1, f"FAILED {arguments[0]}::a hang"
    return done.returncode, done.stdout


def _killer(printed: str) -> str:
    """The first test that failed."""
    found = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", printed, re.MULTILINE)
    return found[1] if found else "?"


def _judge(copy: Path, mutant: Mutant) -> str | None:
    """The test that kills a mutant; None when it survives."""
    path = copy / mutant.file
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(mutant.before, mutant.after), encoding="utf-8")
    try:
        code, printed = _pytest(copy, mutant.tests)
    finally:
        path.write_text(text, encoding="utf-8")
    return _killer(printed) if code == 1 else None


def main() -> int:
    """Judge all, or those whose name has a word."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="mutants whose name contains this")
    parser.add_argument("--list", action="store_true", help="name them and stop")
    given = parser.parse_args()
    chosen = [mutant for mutant in MUTANTS if given.only in mutant.name]
    if given.list:
        print("\n".join(mutant.name for mutant in chosen))
        return 0
    survived = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__", "build"))
            else:
                shutil.copy(source, copy / name)
        for tests in dict.fromkeys(mutant.tests for mutant in chosen):
            code, printed = _pytest(copy, tests)
            if code:
                print(f"without any change: {' '.join(tests)}: {_killer(printed) if code == 1 else printed[-500:]}")
                return 2
        for mutant in chosen:
            killer = _judge(copy, mutant)
            print(
                f"{'killed  ' if killer else 'SURVIVED'}  {mutant.name}\n          {killer or mutant.file}", flush=True
            )
            if killer is None:
                survived.append(mutant.name)
    print(f"{len(chosen) - len(survived)} of {len(chosen)} killed")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
