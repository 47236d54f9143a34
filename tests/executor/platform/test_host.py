"""Laws of the embedded host: it opens or says why not, refuses after closing, and never hangs who waits."""

from __future__ import annotations

import stat
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from executor import Conflict, Platform, Refused, Unavailable
from executor.config import Config, load
from executor.platform.embedded import Embedded
from executor.platform.host import Host
from tests.executor.fake_service import FakeService, fake_running


def _host(tmp_path: Path, made: list[FakeService] | None = None) -> Host:
    return Host(load({"data_dir": tmp_path}, environment={}), running=fake_running(made if made is not None else []))


def test_opening_raises_what_the_executor_raises_itself(tmp_path: Path) -> None:
    @asynccontextmanager
    async def running(_config: Config) -> AsyncIterator[Any]:
        raise ExceptionGroup("nursery", [Refused("Process 7 has it open.", code="data_in_use")])
        yield

    host = Host(load({"data_dir": tmp_path}, environment={}), running=running)
    with pytest.raises(Refused, match="Process 7") as refused, Platform(Embedded(host)):
        pass
    assert refused.value.code == "data_in_use"


def test_a_closed_platform_refuses_at_once(tmp_path: Path) -> None:
    platform = Platform(Embedded(_host(tmp_path)))
    with platform:
        tenant = platform.create_tenant("acme")
    for act in (tenant.instances, lambda: platform.create_tenant("b"), lambda: tenant.git_url):
        with pytest.raises(Unavailable) as closed:
            act()
        assert closed.value.code == "shutting_down"
    platform.close()  # again: nothing happens


def test_closing_ends_calls_that_wait(tmp_path: Path) -> None:
    made: list[FakeService] = []
    host = _host(tmp_path, made)
    raised: list[BaseException] = []
    with Platform(Embedded(host)) as platform:
        tenant = platform.create_tenant("acme")
        tenant.deploy({"workflows.py": "class Waiter(Workflow): ..."})
        run = tenant.start("Waiter")
        entered = threading.Event()
        found = made[0].instances_["acme", run.id]
        wait = found.changed.wait

        async def tell() -> None:
            entered.set()
            await wait()

        found.changed = SimpleNamespace(wait=tell)  # type: ignore[assignment]

        def waiter() -> None:
            try:
                run.result()
            except Unavailable as error:
                raised.append(error)

        thread = threading.Thread(target=waiter)
        thread.start()
        assert entered.wait(10)
    thread.join(10)
    assert [error.code for error in raised] == ["shutting_down"]  # type: ignore[attr-defined]


def test_a_platform_that_was_never_opened_closes(tmp_path: Path) -> None:
    Platform(Embedded(_host(tmp_path))).close()


def test_without_a_with_block_the_first_call_opens(tmp_path: Path) -> None:
    platform = Platform(Embedded(_host(tmp_path)))
    try:
        assert platform.create_tenant("acme").name == "acme"
    finally:
        platform.close()


def test_the_administrators_token_is_made_once_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    tokens = []
    for _ in range(2):
        made: list[FakeService] = []
        with Platform(Embedded(_host(tmp_path, made))):
            tokens.append(made[0].admin_token)
    path = tmp_path / "admin-token"
    assert tokens == [path.read_text().strip()] * 2
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert tokens[0].startswith("pda_")


def test_a_call_from_the_executors_own_thread_is_a_bug_and_not_a_hang(tmp_path: Path) -> None:
    host = _host(tmp_path)
    with Platform(Embedded(host)) as platform:

        async def call(_service: Any, _caller: Any) -> None:
            platform.tenants()

        with pytest.raises(RuntimeError, match="would wait for itself"):
            host.submit(call).result(timeout=10)


def test_faults_of_the_service_reach_the_caller_as_they_are(tmp_path: Path) -> None:
    made: list[FakeService] = []
    with Platform(Embedded(_host(tmp_path, made))) as platform:
        tenant = platform.create_tenant("acme")
        made[0].break_next = ExceptionGroup("nursery", [Conflict("twice", code="instance_exists")])
        with pytest.raises(Conflict, match="twice"):
            tenant.start("Echo")
        made[0].break_next = ZeroDivisionError("bug")
        with pytest.raises(ZeroDivisionError):
            tenant.start("Echo")
