"""A backup of a running platform is a data directory: opened, its instances go on."""

import pytest

from executor.config import Config
from executor.core.errors import Conflict
from executor.main import HASH_SEED_FILE, running
from executor.service import ADMINISTRATOR

SOURCE = b"""
from executor.workflow import Workflow


def count(facet_rows):
    return facet_rows


class Waits(Workflow):
    async def run(self, event, step):
        @step.do("write")
        def write():
            self.facet.execute("create table t (x)")
            self.facet.execute("insert into t values (1)")
            return sorted({"a", "b", "c"}, key=hash)

        order = await write()
        ok = await step.wait_for_event("go", type="go")
        assert order == sorted({"a", "b", "c"}, key=hash), "the hash seed is part of what is kept"
        return {"go": ok.payload}
"""


async def test_instance_goes_on_from_a_backup_taken_while_it_waited(tmp_path):
    data, copy = tmp_path / "data", tmp_path / "copy"
    async with running(Config(data_dir=data)) as service:
        await service.create_tenant(ADMINISTRATOR, "acme")
        first = await service.deploy(ADMINISTRATOR, "acme", {"workflows.py": SOURCE})
        await service.start(ADMINISTRATOR, "acme", "Waits", {}, id="one")
        while (seen := await service.status(ADMINISTRATOR, "acme", "one")).state != "waiting":
            await service.journal(ADMINISTRATOR, "acme", "one", after=seen.sequence, wait_s=0.05)
        await service.deploy(ADMINISTRATOR, "acme", {"workflows.py": SOURCE.replace(b"Waits", b"Other")})
        await service.backup(ADMINISTRATOR, str(copy))
        facet = await service.facet(ADMINISTRATOR, "acme", "one")
        with pytest.raises(Conflict) as caught:
            await service.backup(ADMINISTRATOR, str(copy))
        assert caught.value.message == f"{copy} exists already"
        await service.send_event(ADMINISTRATOR, "acme", "one", "go", "after the backup")
        assert await service.result(ADMINISTRATOR, "acme", "one", timeout_s=20) == {"go": "after the backup"}
    assert (copy / HASH_SEED_FILE).read_text() == (data / HASH_SEED_FILE).read_text()
    async with running(Config(data_dir=copy)) as service:
        assert await service.check(ADMINISTRATOR) == []
        status = await service.status(ADMINISTRATOR, "acme", "one")
        assert (status.state, status.commit) == ("waiting", first.commit)
        assert await service.facet(ADMINISTRATOR, "acme", "one") == facet
        await service.send_event(ADMINISTRATOR, "acme", "one", "go", "in the copy")
        assert await service.result(ADMINISTRATOR, "acme", "one", timeout_s=20) == {"go": "in the copy"}
