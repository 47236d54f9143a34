"""A real `perdure serve` process for the benches that need one: over HTTP, or to be killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from executor import Platform
from executor.config import ADDRESS_FILE, read_address, read_admin_token
from executor.platform import Tenant
from tools.bench.common import TENANT, WORKFLOWS

START_S_MAX = 60.0


@dataclass(frozen=True)
class Server:
    """`ready_s`: from the start of the process until it accepted calls."""

    process: subprocess.Popen[bytes]
    url: str
    token: str
    ready_s: float

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.removeprefix("http://").rpartition(":")
        return host, int(port)

    def kill(self) -> None:
        """SIGKILL to the server only: what it started must notice by itself. Returns when all of it is gone."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@contextmanager
def served(data_dir: Path, **settings: Any) -> Generator[Server]:
    """A server over `data_dir` on a free loopback port. Settings that are 0 or None were not given. It is stopped in
    good order, if it still runs."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PERDURE_")}
    environment |= {f"PERDURE_{name.upper()}": str(value) for name, value in settings.items() if value}
    command = [sys.executable, "-m", "executor.cli", "serve", "--data", str(data_dir), "--port", "0"]
    data_dir.mkdir(exist_ok=True)
    (data_dir / ADDRESS_FILE).unlink(missing_ok=True)  # of one that was killed
    begun = time.perf_counter()
    process = subprocess.Popen([*command, "--log-level", "warning"], env=environment, stdout=subprocess.DEVNULL)
    try:
        url = read_address(data_dir)
        while url is None:
            if process.poll() is not None or time.perf_counter() - begun > START_S_MAX:
                raise RuntimeError(f"the server did not start (exit code {process.poll()})")
            time.sleep(0.002)
            url = read_address(data_dir)
        yield Server(process, url, read_admin_token(data_dir) or "", time.perf_counter() - begun)
    finally:
        process.terminate()
        process.wait(30)


def deployed(platform: Platform) -> Tenant:
    """The tenant of the benches with WORKFLOWS deployed; made if it is not there yet."""
    for tenant in platform.tenants():
        if tenant.name == TENANT:
            return tenant
    tenant = platform.create_tenant(TENANT)
    tenant.deploy({"workflows.py": WORKFLOWS}, message="bench")
    return tenant
