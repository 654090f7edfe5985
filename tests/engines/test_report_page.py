"""The page in a real browser: nothing is asked for, nothing complains, every plot is drawn, light and dark."""

import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

from proxy.evidence.report import build
from proxy.evidence.report_page import page
from proxy.evidence.sources.query import Window
from tests.support.exchanges import exchanges_of
from tests.support.ledgers import make_row
from tests.support.traffic import ledger_rows

pytestmark = pytest.mark.engines

QUIET = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--virtual-time-budget=20000",
    "--window-size=1180,900",
]
DARK = "--blink-settings=preferredColorScheme=0"


def _browse(where: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium is installed (Debian: apt install chromium)")
    profile = f"--user-data-dir={where / 'profile'}"
    return subprocess.run(
        [browser, *QUIET, profile, "--enable-logging=stderr", *flags, (where / "report.html").as_uri()],
        capture_output=True,
        text=True,
        check=True,
        timeout=110,
    )


@pytest.mark.parametrize("theme", [[], [DARK]])
def test_the_page_is_whole_in_itself(tmp_path: Path, theme: list[str]) -> None:
    """No console message, no request but for the file, and as many plots as there are places, whatever names there are."""
    usual = ledger_rows(np.random.default_rng(4), exchanges=3000, days=7)
    evil = (make_row(model='</script><script>document.title="broken"</script>', app="<b>") for _ in range(30))
    report = build(exchanges_of([*usual, *evil]), Window(), by_app=False)
    (tmp_path / "report.html").write_text(page(report), encoding="utf-8")
    done = _browse(tmp_path, *theme, "--dump-dom", f"--log-net-log={tmp_path / 'net.json'}")
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    drawn = re.findall(r'<div class="plot js-plotly-plot"', done.stdout)
    assert len(drawn) == done.stdout.count('role="img"') == 14
    assert "<title>Lengthwise report</title>" in done.stdout
    log = (tmp_path / "net.json").read_text()
    asked = {urlsplit(url).hostname for url in re.findall(r'"url":\s*"((?:https?|wss?|ftp)://[^"]+)"', log)}
    # The browser asks its maker for the time and for updates, whatever page it shows.
    assert [host for host in asked if not host.endswith((".google.com", ".googleapis.com"))] == []
