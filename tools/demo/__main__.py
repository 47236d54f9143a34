"""`python -m tools.demo`: exit code 0 only if the story was told to its end and every claim holds."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from executor import PerdureError
from tools.demo.claims import Claims, Stopped
from tools.demo.releases import fetch
from tools.demo.screen import Screen
from tools.demo.server import Server
from tools.demo.story import Story


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.demo", description="Perdure, shown; every claim is checked.")
    parser.add_argument("--quick", action="store_true", help="do not ask pip: audit archives of installed packages")
    parser.add_argument(
        "--unconfined",
        action="store_true",
        help="run the example without a sandbox, on a machine that has none to offer",
    )
    options = parser.parse_args()
    screen, claims = Screen(), Claims()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # or the server would outlive us
    screen.title("Perdure: durable workflows for many tenants whose code arrives by git push")
    with tempfile.TemporaryDirectory(prefix="perdure-demo-", ignore_cleanup_errors=True) as name:
        home = Path(name)
        server = Server(home, unconfined=options.unconfined)
        with ThreadPoolExecutor(1) as pool:
            try:
                fetching = pool.submit(fetch, home, use_pip=not options.quick)
                Story(home, server, fetching, screen, claims).tell()
            except (Stopped, PerdureError, OSError, TimeoutError, subprocess.SubprocessError) as error:
                screen.alarm(f"The story stops: {error}")
                claims.check("the story was told to its end", False, type(error).__name__)
                screen.say(server.last_words())
            except KeyboardInterrupt:
                screen.alarm("Interrupted.")
                return 130
            finally:
                server.close()
    screen.verdict(claims)
    return 1 if claims.failed else 0


if __name__ == "__main__":
    sys.exit(main())
