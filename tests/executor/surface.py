"""Served: a FakeService behind a real HTTP server on a loopback port, for tests of the surfaces."""

from __future__ import annotations

import os
import socket
import ssl
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from executor import cli
from executor.config import load
from executor.platform import Platform
from executor.platform.embedded import Embedded
from executor.platform.host import Host
from tests.executor.fake_service import WORKFLOWS, FakeService, fake_running

Perdure = Callable[..., tuple[int, str, str]]
_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Loopback is plain; loading the world's certificates for each client takes 40 ms."""


class Served:
    """`http` speaks with the administrator's token; `stranger` with none."""

    def __init__(self, host: Host, service: FakeService, data_dir: Path) -> None:
        self.host = host
        self.service = service
        self.data_dir = data_dir
        self.url = host.address()
        self.http = httpx2.Client(
            base_url=self.url + "/api/v1",
            headers={"Authorization": f"Bearer {service.admin_token}"},
            trust_env=False,
            verify=_NO_TLS,
            timeout=20,
        )
        self.stranger = httpx2.Client(base_url=self.url, trust_env=False, verify=_NO_TLS, timeout=20)

    def on_trio(self, action: Callable[[], Any]) -> Any:
        """Run `action` on the service's own thread."""

        async def call(_service: Any, _caller: Any) -> Any:
            return action()

        return self.host.submit(call).result(timeout=10)

    def token(self, tenant: str, access: str = "write") -> str:
        answer = self.http.post(f"/tenants/{tenant}/tokens", json={"access": access})
        secret: str = answer.json()["secret"]
        return secret

    def bearer(self, tenant: str, access: str = "write") -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token(tenant, access)}"}

    def raw(self, request: bytes) -> bytes:
        """The whole answer to bytes on a new connection (it must end by `Connection: close` or by an error)."""
        host, port = self.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            connection.sendall(request)
            answer = b""
            while part := connection.recv(65536):
                answer += part
            return answer


def command_line(served: Served, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Perdure:
    """Runs a command in this process, as the administrator: exit code, standard output, standard error."""
    for name in [name for name in os.environ if name.startswith("PERDURE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PERDURE_URL", served.url)
    monkeypatch.setenv("PERDURE_ADMIN_TOKEN", served.service.admin_token)

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.run(list(arguments))
        out, err = capsys.readouterr()
        return code, out, err

    return run


@contextmanager
def serving(**settings: Any) -> Iterator[Served]:
    made: list[FakeService] = []
    with tempfile.TemporaryDirectory() as directory:
        config = load({"data_dir": Path(directory), **settings}, environment={})
        host = Host(config, running=fake_running(made))
        with Platform(Embedded(host)) as platform:
            for name in ("acme", "umbrella"):
                platform.create_tenant(name).deploy({"workflows.py": WORKFLOWS}, message="first")
            served = Served(host, made[0], Path(directory))
            try:
                yield served
            finally:
                served.http.close()
                served.stranger.close()
