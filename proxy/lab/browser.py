"""Shows a page in the browser of whoever sits before the screen, and does nothing where nobody does.

Layer: lab. The browser is started by a process of its own, on which nothing waits: one that hangs, is none, or writes to its terminal is
nobody's trouble, and Ctrl-C in ours does not reach it.
"""

import subprocess
import sys
import threading
from collections.abc import Mapping

__all__ = ["show"]

_OPEN = """\
import sys, webbrowser
browser = webbrowser.get()
if type(browser) is not webbrowser.GenericBrowser:  # what is left there are browsers that need a terminal
    browser.open(sys.argv[1])
"""


def show(url: str, environ: Mapping[str, str]) -> bool:
    """Let the browser open, if there is somebody to see it; True when it is being tried."""
    if not sys.stdout.isatty() or not _has_screen(environ, sys.platform):
        return False
    quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    # The folder that we were started in may hold a shlex.py of its own.
    command = [sys.executable, "-P", "-c", _OPEN, url]
    options = {"args": command, "env": environ, "start_new_session": True, **quiet}
    threading.Thread(target=subprocess.run, kwargs=options, daemon=True).start()
    return True


def _has_screen(environ: Mapping[str, str], platform: str) -> bool:
    """True on a desktop, not in a job and not over a remote shell."""
    if environ.get("CI") or environ.get("SSH_CONNECTION"):
        return False
    return platform == "darwin" or bool(environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY"))
