"""Do the tests see mistakes? Each mutant is put into a copy of the tree, and its tests have to fail there.

Run by `python -m tests.mutants [WORD …]`: those whose description contains one of the words, or all. Exit code 1 when one lives. The tests that
are named run without a mutant first: what is red anyway proves nothing.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.mutants.mutant import Mutant
from tests.mutants.policy import MUTANTS

ROOT = Path(__file__).resolve().parents[2]
OK, FAILED = 0, 1
"""Exit codes of pytest; any other one is no answer."""


def copied(folder: Path) -> None:
    """What git knows of the tree, as it is now."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target)


def tested(folder: Path, tests: str) -> int:
    """Exit code of pytest on these tests of the copy."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-p", "no:cacheprovider", tests],
        cwd=folder,
        capture_output=True,
        check=False,
    ).returncode


def verdict(folder: Path, mutant: Mutant) -> str:
    """`dies`, or what is wrong."""
    path = folder / mutant.file
    text = path.read_text(encoding="utf-8")
    if text.count(mutant.was) != 1:
        return f"is no mutant: its line stands {text.count(mutant.was)} times in {mutant.file}"
    path.write_text(text.replace(mutant.was, mutant.becomes), encoding="utf-8")
    try:
        code = tested(folder, mutant.tests)
    finally:
        path.write_text(text, encoding="utf-8")
    return {OK: f"LIVES: {mutant.tests} is green", FAILED: "dies"}.get(
        code, f"breaks {mutant.tests}: pytest says {code}"
    )


def main(words: list[str]) -> int:
    """Print a line for each mutant, as it ends."""
    mutants = [mutant for mutant in MUTANTS if not words or any(word in mutant.what for word in words)]
    bad = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copied(folder)
        for tests in dict.fromkeys(mutant.tests for mutant in mutants):
            if tested(folder, tests) != OK:
                print(f"{tests} is red without a mutant")
                return 1
        for mutant in mutants:
            said = verdict(folder, mutant)
            bad += said != "dies"
            print(f"{mutant.what:64} {said}", flush=True)
    print(f"{len(mutants) - bad} of {len(mutants)} die")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
