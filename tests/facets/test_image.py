"""PageImage: an ordinary SQLite file in memory that knows what changed."""

import os
import shutil
import subprocess
from pathlib import Path

import apsw
import pytest

from facets import delta
from facets.errors import Refused
from facets.image import PageImage

MAX = 4 * 1024 * 1024
SHELL = shutil.which("sqlite3")


def commit(connection: apsw.Connection, *statements: str) -> None:
    connection.execute("begin")
    for statement in statements:
        connection.execute(statement)
    connection.execute("commit")


def filled() -> tuple[PageImage, apsw.Connection]:
    image = PageImage(bytes_max=MAX)
    connection = image.connect()
    commit(
        connection,
        "create table note(id integer primary key, body text)",
        "with recursive n(i) as (select 1 union all select i + 1 from n where i < 50) "
        "insert into note select i, printf('%.200c', 'x') from n",
    )
    return image, connection


def test_nothing_is_opened_and_nothing_changes_before_the_first_write() -> None:
    image = PageImage(bytes_max=MAX)
    connection = image.connect()
    assert connection.execute("select count(*) from sqlite_schema").get == 0
    assert image.take_delta() == b""
    assert image.data() == b""


def test_image_and_deltas_equal_the_live_image() -> None:
    image, connection = filled()
    deltas = [image.take_delta()]
    for number in range(5):
        commit(connection, f"update note set body = body || '{number}' where id = {number * 9 + 1}")
        deltas.append(image.take_delta())
    assert delta.apply_all(b"", deltas, bytes_max=MAX) == image.data()


def test_a_commit_that_writes_the_same_bytes_gives_no_delta() -> None:
    image, connection = filled()
    image.take_delta()
    commit(connection, "update note set body = body where id = 1")
    assert image.take_delta() == b""


def test_a_rolled_back_transaction_gives_no_delta_even_if_it_spilled() -> None:
    image, connection = filled()
    image.take_delta()
    before = image.data()
    connection.execute("pragma cache_size = 4; pragma cache_spill = 1; begin")
    connection.execute("update note set body = hex(randomblob(400))")
    assert image.is_changed  # pages left the cache before the commit: the rollback must bring them back
    connection.execute("rollback")
    assert not image.is_changed
    assert image.take_delta() == b""
    assert image.data() == before


def test_a_small_write_gives_a_small_delta() -> None:
    """One row of 100 bytes in an indexed table: page 1 is not rewritten for its change counter."""
    image, connection = filled()
    image.take_delta()
    commit(connection, "insert into note(body) values (printf('%.100c', 'y'))")
    change = image.take_delta()
    header = delta.read_header(change, bytes_max=MAX)
    assert header is not None
    assert header.block_count == 1
    assert len(change) < 80


def test_revert_goes_back_to_the_last_delta() -> None:
    image, connection = filled()
    image.take_delta()
    before = image.data()
    commit(connection, "delete from note where id > 3", "create table other(a)")
    connection.close()
    image.revert()
    assert image.data() == before
    assert not image.is_changed
    assert image.connect().execute("select count(*) from note").get == 50


def test_an_image_cut_by_vacuum_grows_again_without_old_bytes() -> None:
    image, connection = filled()
    whole = image.data()
    connection.close()
    again = PageImage(whole, bytes_max=MAX)
    connection = again.connect()
    commit(connection, "delete from note where id > 3")
    connection.execute("vacuum")
    first = again.take_delta()
    assert again.size < len(whole)
    commit(connection, "insert into note(body) select hex(zeroblob(500)) from note, note as b")
    second = again.take_delta()
    assert delta.apply_all(whole, [first, second], bytes_max=MAX) == again.data()
    assert (
        delta.apply_backwards(delta.apply_backwards(again.data(), second, bytes_max=MAX), first, bytes_max=MAX) == whole
    )


def test_data_before_the_first_delta_does_not_disturb_it() -> None:
    image, connection = filled()
    base = image.data()
    again = PageImage(base, bytes_max=MAX)
    commit(again.connect(), "delete from note where id = 1")
    whole = again.data()
    assert delta.apply(base, again.take_delta(), bytes_max=MAX) == whole
    connection.close()


def test_data_between_two_deltas_does_not_disturb_them() -> None:
    image, connection = filled()
    first = image.take_delta()
    commit(connection, "delete from note where id = 1")
    image.data()
    commit(connection, "delete from note where id = 2")
    assert delta.apply_all(b"", [first, image.take_delta()], bytes_max=MAX) == image.data()


@pytest.mark.parametrize("page_bytes", [512, 1024, 4096, 65536])
def test_page_sizes_of_other_makers_work(page_bytes: int, tmp_path: Path) -> None:
    source = apsw.Connection(str(tmp_path / "made elsewhere"))
    source.execute(f"pragma page_size={page_bytes}; create table t(a); insert into t values (zeroblob(9000))")
    source.close()
    content = (tmp_path / "made elsewhere").read_bytes()
    image = PageImage(content, bytes_max=MAX)
    connection = image.connect()
    commit(connection, "insert into t values ('more')", "delete from t where length(a) = 9000")
    change = image.take_delta()
    assert connection.execute("pragma page_size").get == page_bytes
    assert delta.apply(content, change, bytes_max=MAX) == image.data()


@pytest.mark.skipif(SHELL is None, reason="the sqlite3 shell is not installed")
def test_the_image_is_a_file_that_the_sqlite3_shell_accepts(tmp_path: Path) -> None:
    image, connection = filled()
    commit(connection, "create virtual table words using fts5(body)", "insert into words values ('hello world')")
    target = tmp_path / "facet.sqlite"
    target.write_bytes(image.data())
    sql = "pragma integrity_check; select count(*) from note; select * from words where words match 'world'"
    assert SHELL is not None
    done = subprocess.run([SHELL, target, sql], capture_output=True, text=True, check=True)
    assert done.stdout == "ok\n50\nhello world\n"


def test_a_write_over_the_limit_is_refused_and_rolled_back() -> None:
    image = PageImage(bytes_max=20 * 1024)
    connection = image.connect()
    commit(connection, "create table t(a)")
    with pytest.raises(apsw.FullError):
        commit(connection, "insert into t values (zeroblob(40000))")
    if connection.in_transaction:
        connection.execute("rollback")
    image.take_delta()
    assert image.size <= 20 * 1024
    assert connection.execute("pragma integrity_check").get == "ok"


def test_an_image_over_the_limit_is_refused() -> None:
    with pytest.raises(Refused) as caught:
        PageImage(bytes(2049), bytes_max=2048)
    assert caught.value.code == "facet_too_large"
    assert caught.value.message == "A facet of 2049 bytes is over the limit of 2048 bytes."


def test_a_delta_over_the_limit_is_not_taken() -> None:
    image, connection = filled()
    with pytest.raises(Refused) as caught:
        image.take_delta(delta_bytes_max=10)
    assert caught.value.code == "facet_delta_too_large"
    assert image.is_changed
    connection.close()
    image.revert()
    assert image.data() == b""


def test_no_other_file_is_ever_opened(tmp_path: Path) -> None:
    _, connection = filled()
    with pytest.raises(apsw.CantOpenError):
        connection.execute("attach '/other' as other")
    with pytest.raises(apsw.CantOpenError):
        connection.execute(f"vacuum into '{tmp_path}/copy'")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(apsw.CantOpenError):
        apsw.Connection("/1", vfs="perdure-image")


def test_a_database_in_wal_mode_cannot_bring_its_wal_along(tmp_path: Path) -> None:
    source = apsw.Connection(str(tmp_path / "wal"))
    source.execute("pragma journal_mode=wal; create table t(a)")
    source.execute("pragma wal_checkpoint(truncate)")
    content = (tmp_path / "wal").read_bytes()
    source.close()
    with pytest.raises(apsw.CantOpenError):
        PageImage(content, bytes_max=MAX).connect()


def test_forked_children_do_not_share_random_numbers() -> None:
    """SQLite seeds its generator once a process; sandboxes are forks of one process."""
    _, connection = filled()
    connection.execute("select random()")
    seen = set()
    for _ in range(3):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(writer, apsw.randomness(8))
            os._exit(0)
        os.waitpid(child, 0)
        os.close(writer)
        seen.add(os.read(reader, 8))
        os.close(reader)
    assert len(seen) == 3
