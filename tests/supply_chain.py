"""What is installed, and what is known against it: a bill of materials (CycloneDX) and pip-audit, over the locked requirements.

    python tests/supply_chain.py TOOLS    # TOOLS: the folder of pip-audit and cyclonedx-py; `make audit` installs them

Exit 1 when a locked package has a known vulnerability, or the bill is not that of the lock. Where the database of vulnerabilities cannot be
asked, that is said and nothing else is claimed: pip-audit itself would report that it found none.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"
BILL = ROOT / ".venv" / "lengthwise.cdx.json"
PATIENCE_S = 300


def locked() -> dict[str, str]:
    """Name to version of everything that the product installs."""
    return dict(re.findall(r"^([\w.-]+)==([^\s;\\]+)", LOCK.read_text(encoding="utf-8"), re.MULTILINE))


def bill(tools: Path) -> list[str]:
    """Write the bill of materials; what is wrong with it."""
    command = [tools / "cyclonedx-py", "requirements", LOCK, "--of", "JSON", "-o", BILL]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    if done.returncode:
        return [f"no bill of materials: {done.stderr.strip()[-500:]}"]
    listed = {part["name"]: part.get("version") for part in json.loads(BILL.read_text())["components"]}
    print(f"bill of materials: {len(listed)} components in {BILL.parent.name}/{BILL.name}")
    return [] if listed == locked() else [f"the bill and the lock differ: {sorted(set(listed) ^ set(locked()))}"]


def vulnerabilities(tools: Path) -> list[str]:
    """Known vulnerabilities of what is locked; says so when it could not be asked for all."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "audit.json"
        command = [tools / "pip-audit", "-r", LOCK, "--require-hashes", "--disable-pip", "-f", "json", "-o", found]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        if not found.exists():
            print(f"pip-audit: skipped, {(done.stderr.strip().splitlines() or ['it said nothing'])[-1]}")
            return []
        audited: list[dict[str, Any]] = json.loads(found.read_text())["dependencies"]
    skipped = [each["name"] for each in audited if "skip_reason" in each]
    if skipped:
        print(
            f"pip-audit: skipped for {len(skipped)} of {len(audited)}, the database of vulnerabilities knows nothing of them here"
        )
    if len(skipped) < len(audited):
        print(f"pip-audit: {len(audited) - len(skipped)} packages asked for")
    return [
        f"{each['name']} {each['version']}: {known['id']}, fixed in {', '.join(known['fix_versions']) or 'no version'}"
        for each in audited
        for known in each.get("vulns", ())
    ]


def main(tools: Path) -> int:
    """Both; 1 when something is wrong."""
    wrong = bill(tools) + vulnerabilities(tools)
    print("\n".join(wrong), end="\n" if wrong else "")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
