"""Whatever a settings or policies file holds: it is taken, or every mistake is said with its place; and rules that were taken decide.

    python tests/fuzz/fuzz_settings.py [--seconds 60] [--seed N]

Inputs are the files of config/, damaged line by line and value by value.
"""

import random
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from proxy.errors import SettingsError
from proxy.policy.decide import Origin, decide
from proxy.policy.live import Law, Live
from proxy.record import RequestFacts
from proxy.settings import from_json, load, load_policies, to_json
from tests.support.fuzzing import run

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = [path.read_text() for path in [ROOT / "config/lengthwise.yaml", *ROOT.glob("config/examples/*.yaml")]]
POLICIES = [path.read_text() for path in [ROOT / "config/policies.yaml", *ROOT.glob("config/examples/policies/*.yaml")]]
VALUES = [
    *(
        "null",
        "true",
        "0",
        "-1",
        "1.5",
        "1e400",
        ".nan",
        ".inf",
        "99999999999999999999",
        '""',
        "[]",
        "{}",
        "[1, 2]",
        "{a: 1}",
    ),
    *(
        "auto",
        "~",
        "0x10",
        "1_000",
        "2001-01-01",
        "!!binary aGk=",
        "&a [*a]",
        "*x",
        "'\\0'",
        '"\\u0000"',
        "é",
        "k: v",
        "- a",
        "?",
    ),
    *(
        "http://a:99999",
        "https://u:p@h/x?y#z",
        "127.0.0.1:0",
        "[::1]:80",
        "mon-fri",
        "25:00-26:00",
        "Europe/Nowhere",
        "none",
    ),
]
FACTS = RequestFacts("chat_completions", "gpt-4o", stream=True, limits=(("max_tokens", 5000),))
ORIGIN = Origin("openai", "search", "team-a", [(b"x-team", b"growth")], "0" * 24)


def damaged(chance: random.Random) -> tuple[bool, str]:
    """(True for policies, the file's text) after some random accidents."""
    is_policies = chance.random() < 0.5
    lines = chance.choice(POLICIES if is_policies else SETTINGS).splitlines()
    lines = [line for line in lines if not line.lstrip().startswith("#")] or [""]
    for _ in range(chance.randrange(4)):
        at = chance.randrange(len(lines))
        line = lines[at]
        match chance.randrange(7):
            case 0:
                del lines[at : at + chance.randrange(1, 3)]
                lines = lines or [""]
            case 1:
                lines.insert(at, line)
            case 2:
                lines[at] = f"{line.partition(':')[0]}: {chance.choice(VALUES)}"
            case 3:
                lines[at] = " " * chance.randrange(8) + line.lstrip()
            case 4:
                place = chance.randrange(len(line) + 1)
                lines[at] = line[:place] + chance.choice([*"{}[]:,#'\"&*!|>%@`\t\0\x85\ufeff", "<<: "]) + line[place:]
            case 5:
                name, colon, rest = line.partition(":")
                lines[at] = name + chance.choice(["x", "_", "S", ""]) + colon + rest
            case _:
                words = line.split(" ")
                words[chance.randrange(len(words))] = chance.choice(VALUES)
                lines[at] = " ".join(words)
    return is_policies, "\n".join(lines) + "\n"


class _Target:
    """A folder for the files."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "lengthwise.yaml"
        self.policies = folder / "policies.yaml"
        self.policies.write_text(POLICIES[0])

    def check(self, made: tuple[bool, str], chance: random.Random) -> None:
        """Assert the invariants for one file."""
        is_policies, text = made
        file = folder_file = self.file.with_name("other.yaml") if is_policies else self.file
        folder_file.write_text(text, encoding="utf-8", errors="surrogatepass")
        try:
            if is_policies:
                policies = load_policies(file)
                live = Live(laws={("openai", "gpt-4o", 0.95): Law(0.3, 0.02)}) if chance.random() < 0.5 else Live()
                decision = decide(FACTS, ORIGIN, policies, live, chance.choice([0.0, 1.8e9]))
                assert (decision.forwarded_max_tokens or 0) <= 5000
            else:
                settings, _, warnings = load(file, {}, {"OPENAI_API_KEY": "k"})
                assert from_json(to_json(settings)) == settings
                assert all(isinstance(warning, str) for warning in warnings)
        except SettingsError as error:
            said = error.mistakes
            assert said, "refused without a reason"
            assert all(mistake.path and mistake.message for mistake in said), said


def main() -> int:
    """Run; the files are gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        return run(__doc__.splitlines()[0], damaged, _Target(Path(folder)).check)


if __name__ == "__main__":
    sys.exit(main())
