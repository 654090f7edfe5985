"""Facts of the repository itself: names, the mirror of tests, documents that agree with what they describe.

What must not occur anywhere is put together from pieces, so that this file does not contain it.
"""

import contextlib
import functools
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "deploy/README.md", "tests/README.md", "SECURITY.md", "CHANGELOG.md")
ARCHITECTURE = "proxy/ARCHITECTURE.md"
EMPTY_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "managers", "misc"}
INDEX_ADDRESS = re.compile(
    "|".join(
        (
            "py" + r"pi\.org",
            "python" + r"hosted\.org",
            "npm" + r"js\.org",
            r"(?<!emit)-" + r"index-url",
            r"find-" + "links",
        )
    )
)
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:" + "|".join(("ro" + "ot", "ho" + "me", "Us" + "ers", "wo" + "rk")) + r")/\w")


@functools.cache
def tracked() -> dict[str, str]:
    """Text of every tracked file that is there, by its path; binary ones are left out."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout: which files belong to the repository is unknown")
    texts = {}
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        data = path.read_bytes() if path.is_file() else b"\0"
        if b"\0" not in data:
            texts[name] = data.decode("utf-8")
    return texts


def found(pattern: re.Pattern[str]) -> list[str]:
    """Where a pattern occurs in tracked files, as `path:line: text`."""
    return [
        f"{name}:{number}: {match.group()}"
        for name, text in tracked().items()
        for number, line in enumerate(text.splitlines(), 1)
        if (match := pattern.search(line))
    ]


def headings() -> dict[str, str]:
    """Text of each numbered section of ARCHITECTURE.md, by its number."""
    parts = re.split(r"^## (\d+)\. ", (ROOT / ARCHITECTURE).read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_module_has_its_test_file() -> None:
    """A module's tests are found without searching: the same place, the same name."""
    modules = [Path(name) for name in tracked() if name.startswith("proxy/") and name.endswith(".py")]
    missing = [
        str(expected)
        for module in modules
        if module.stem not in {"__init__", "__main__"}
        and str(expected := Path("tests", *module.parts[1:-1], f"test_{module.name}")) not in tracked()
    ]
    assert missing == [], "\n".join(missing)


def test_no_module_is_named_for_being_useful() -> None:
    """A name says what a thing is."""
    named = [name for name in tracked() if name.endswith(".py") and EMPTY_NAMES & {*Path(name).with_suffix("").parts}]
    assert named == [], "\n".join(named)


def test_no_file_names_a_package_index() -> None:
    """Where packages come from is the machine's business."""
    assert found(INDEX_ADDRESS) == []


def test_no_file_names_a_place_on_somebodys_machine() -> None:
    """The repository works wherever it is cloned."""
    assert found(MACHINE_PATH) == []


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (INDEX_ADDRESS, "https://" + "py" + "pi.org/simple"),
        (INDEX_ADDRESS, "--extra-" + "index-url x"),
        (MACHINE_PATH, "open('/" + "ro" + "ot/x')"),
        (MACHINE_PATH, "cd /" + "ho" + "me/somebody"),
    ],
)
def test_the_patterns_find_what_they_are_for(pattern: re.Pattern[str], text: str) -> None:
    """A pattern that matches nothing proves nothing."""
    assert pattern.search(text)


def test_architecture_is_short_enough_to_be_read() -> None:
    """Everybody who changes the code reads it, so it stays within 150 lines."""
    assert len((ROOT / ARCHITECTURE).read_text(encoding="utf-8").splitlines()) <= 150


def test_every_cited_section_of_the_architecture_exists() -> None:
    """`ARCHITECTURE.md 5.5` is invariant 5; a quoted name after a section is one that the section's text has."""
    sections = headings()
    missing = []
    for name, text in tracked().items():
        for number, item, quoted in re.findall(r'ARCHITECTURE\.md (\d+)(?:\.(\d+))?((?:,? "[^"\n]+")*)', text):
            body = sections.get(number, "")
            names = re.findall(r'"([^"]+)"', quoted)
            if not body or (item and f"\n{item}. **" not in body) or any(f"**{part}.**" not in body for part in names):
                missing.append(f"{name}: {number}.{item} {quoted}")
    assert missing == [], "\n".join(missing)


def test_every_document_that_is_named_exists() -> None:
    """A reader who follows a name or a link finds what it points to."""
    missing = []
    for name in tracked():
        if not name.endswith(".md"):
            continue
        text = tracked()[name]
        places = re.findall(r"\]\(([^)#:]+)\)", text)
        places += re.findall(r"`((?:proxy|tests|config|deploy)/[\w./-]*\.\w+)`", text)
        missing += [
            f"{name}: {place}"
            for place in places
            if not ((ROOT / name).parent / place).exists() and not (ROOT / place).exists()
        ]
    for name, text in tracked().items():
        known = {Path(path).name for path in tracked()}
        missing += [f"{name}: {cited}" for cited in re.findall(r"\b[A-Z]{4,}\.md\b", text) if cited not in known]
    assert missing == [], "\n".join(missing)


def test_every_make_command_that_a_document_names_is_a_target() -> None:
    """What a reader types works."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {
        command
        for document in (*DOCUMENTS, ARCHITECTURE)
        for command in re.findall(r"(?:^|`|^[A-Z_]+=\S+ )make ([a-z]+)", tracked()[document], re.MULTILINE)
    }
    assert {"demo", "test"} <= named
    assert named - targets == set()


def test_every_command_of_lengthwise_that_a_document_names_exists() -> None:
    """No document advertises a command that is not there."""
    named = {
        command
        for document in DOCUMENTS
        for command in re.findall(r"(?:^|`|bin/)lengthwise ([a-z-]+)", tracked()[document], re.MULTILINE)
    }
    assert {"serve", "check"} <= named
    answers = {
        command: subprocess.run(
            [sys.executable, "-m", "proxy.cli", command, "--help"], cwd=ROOT, capture_output=True, check=False
        ).returncode
        for command in named
    }
    assert answers == dict.fromkeys(named, 0)


def test_locks_pin_every_package_with_hashes() -> None:
    """What was tested is what is installed, byte for byte; the tests' lock holds all that the product's does."""
    locks = {}
    for name in ("requirements.lock", "tests/requirements.lock", "tests/audit.lock"):
        entries = re.split(r"\n(?=\S)", (ROOT / name).read_text(encoding="utf-8").strip())
        assert [entry.split()[0] for entry in entries if "==" not in entry or "--hash=sha256:" not in entry] == []
        locks[name] = {entry.split()[0] for entry in entries}
    assert locks["requirements.lock"] - locks["tests/requirements.lock"] == set()


def test_architecture_lists_every_refusal_with_its_status() -> None:
    """The contract's list of our own errors is the code's."""
    from proxy.errors import REFUSALS

    contract = re.search(r"first-byte 504\. (400 .+?)\. One retry", headings()["7"].replace("\n", " ")).group(1)
    listed = {name: int(group[:3]) for group in contract.split(" · ") for name in group[4:].split(", ")}
    assert listed == {name: refusal.status for name, refusal in REFUSALS.items()}


def test_readme_shows_only_names_that_are_emitted() -> None:
    """A reader finds each attribute and metric of the README in his own backend."""
    from proxy.recorder import semconv

    emitted = {value for value in vars(semconv).values() if isinstance(value, str)}
    shown = set(re.findall(r"(?<![\w`.-])`?((?:gen_ai|lengthwise)\.[a-z_.]+[a-z])\b(?!\.)", tracked()["README.md"]))
    assert len(shown) > 20
    assert shown - emitted - {"lengthwise.yaml", "lengthwise.sqlite"} == set()


def test_every_ledger_column_that_a_document_names_exists() -> None:
    """The contract lists the table's columns in their order, and the README's queries run."""
    from proxy.recorder.ledger import COLUMNS

    contract = re.search(r"Columns: (.+?)\.\n", headings()["7"], re.DOTALL).group(1)
    listed = [part.split()[0] for part in re.sub(r"\([^)]*\)", "", contract).split(",")]
    assert listed == list(COLUMNS)


def test_the_queries_of_the_readme_run() -> None:
    """What a reader copies into sqlite3 works on the table as it is."""
    from proxy.recorder.ledger import COLUMNS

    queries = re.findall(r'"(SELECT .+?)"\n', tracked()["README.md"], re.DOTALL)
    with contextlib.closing(sqlite3.connect(":memory:")) as database:
        database.execute("CREATE TABLE exchange (" + ", ".join(f'"{name}"' for name in COLUMNS) + ")")
        database.execute("INSERT INTO exchange (id, output_tokens, shadow) VALUES (?, ?, ?)", ("a", 2000, "chat-cap"))
        answers = [database.execute(query).fetchall() for query in queries]
    assert answers == [[(None, None, None, 2000, None, None, None, None)], [(1, 1)]]


def test_the_policy_of_the_readme_is_one() -> None:
    """The first policy that a reader writes is accepted, in shadow and enforced."""
    from proxy.policy.rules import parse

    (document,) = re.findall(r"```yaml\n(version: 1\n.+?)```", tracked()["README.md"], re.DOTALL)
    modes = [parse(yaml.safe_load(document.replace("shadow", mode))).rules[0].mode for mode in ("shadow", "enforce")]
    assert modes == ["shadow", "enforce"]
