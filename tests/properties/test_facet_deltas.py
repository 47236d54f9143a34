"""Laws of facets: image + deltas = live image, in both directions, whatever SQLite did; a facet is a dict with rollback.

Any bytes given as a delta are accepted or give a FacetError, nothing else.
"""

import sqlite3

import apsw
from hypothesis import given, note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from facets import delta
from facets.errors import ConstraintFailed, FacetError, Refused
from facets.facet import Facet
from facets.image import PageImage
from facets.limits import Limits

MAX = 2 * 1024 * 1024

# --- what SQLite can do to a file

keys = st.integers(0, 40)
sizes = st.sampled_from([0, 1, 60, 300, 900, 1100, 5000, 30_000])
tables = st.sampled_from(["one", "two"])

writes = st.one_of(
    st.builds("insert or replace into {} values ({}, randomblob({}))".format, tables, keys, sizes),
    st.builds("insert or replace into {} values ({}, zeroblob({}))".format, tables, keys, sizes),
    st.builds("update {} set body = body || 'x' where id >= {}".format, tables, keys),
    st.builds("delete from {} where id < {}".format, tables, keys),
    st.builds("insert into words values ('{} alpha {}')".format, keys, keys),
    st.builds("delete from words where rowid % 3 = {} % 3".format, keys),
    st.builds("insert into {0} select id + 100 + {1}, body from {0} where id < 100".format, tables, keys),
)
schema_changes = st.sampled_from(
    [
        "create index one_body on one(body)",
        "drop index one_body",
        "create table three(a, b, c)",
        "insert into three select id, body, id from one",
        "drop table three",
        "alter table three rename to four",
        "drop table four",
        "alter table two add column more",
        "alter table two drop column more",
        "create virtual table extra using fts5(a, b)",
        "drop table extra",
        "create trigger copied after insert on one begin delete from two where id = new.id; end",
        "drop trigger copied",
        "analyze",
        "reindex",
        "insert into words(words) values ('optimize')",
        "pragma user_version = 77",
        "pragma incremental_vacuum(3)",
    ]
)
controls = st.sampled_from(
    ["begin", "commit", "commit", "rollback", "savepoint s", "rollback to s", "release s", "vacuum"]
)
actions = st.lists(st.one_of(writes, writes, schema_changes, controls, st.just("reopen")), min_size=5, max_size=40)


def attempt(connection: apsw.Connection, sql: str) -> None:
    """Statements that do not fit the moment (no transaction, no such table) fail like a tenant's mistakes."""
    try:
        connection.execute(sql)
    except (apsw.SQLError, apsw.ConstraintError, apsw.FullError):
        note(f"failed: {sql}")


@given(
    actions=actions,
    page_bytes=st.sampled_from([512, 1024, 4096]),
    auto_vacuum=st.sampled_from(["none", "full", "incremental"]),
    is_spilling=st.booleans(),
)
def test_image_and_deltas_equal_the_live_image(
    actions: list[str], page_bytes: int, auto_vacuum: str, is_spilling: bool
) -> None:
    image = PageImage(bytes_max=MAX)
    images = [b""]
    deltas: list[bytes] = []

    def take() -> None:
        deltas.append(image.take_delta())
        images.append(image.data())
        assert delta.apply(images[-2], deltas[-1], bytes_max=MAX) == images[-1]

    def connect() -> apsw.Connection:
        connection = image.connect(page_bytes=page_bytes)
        connection.execute(f"pragma auto_vacuum={auto_vacuum}; pragma max_page_count={MAX // page_bytes}")
        if is_spilling:
            connection.execute("pragma cache_size=5; pragma cache_spill=2")
        return connection

    connection = connect()
    connection.execute("create table one(id integer primary key, body)")
    connection.execute(
        "create table two(id primary key, body) without rowid; create virtual table words using fts5(body)"
    )
    take()
    for sql in [*actions, "commit"]:
        if sql == "reopen":
            # A crash: the live image is gone with its open transaction; what was taken must be enough.
            image = PageImage(delta.apply_all(b"", deltas, bytes_max=MAX), bytes_max=MAX)
            connection.close(force=True)
            connection = connect()
        else:
            attempt(connection, sql)
        if not connection.in_transaction:
            take()
    assert connection.execute("pragma integrity_check").get == "ok"
    elsewhere = sqlite3.connect(":memory:")  # another build of SQLite, older by years
    elsewhere.deserialize(images[-1])
    assert elsewhere.execute("pragma integrity_check").fetchall() == [("ok",)]
    elsewhere.close()
    assert delta.apply_all(b"", deltas, bytes_max=MAX) == images[-1]
    composed = delta.compose(deltas, bytes_max=MAX)
    assert composed == delta.between(b"", images[-1])
    backwards = images[-1]
    for change, before in zip(reversed(deltas), reversed(images[:-1]), strict=True):
        backwards = delta.apply_backwards(backwards, change, bytes_max=MAX)
        assert backwards == before


# --- deltas by themselves

SMALL = 16 * 1024
pieces = st.one_of(st.binary(max_size=30), st.builds(bytes, st.integers(0, 3000)))
small_images = st.lists(pieces, max_size=6).map(b"".join).filter(lambda image: len(image) <= SMALL)


@given(first=small_images, second=small_images, third=small_images)
def test_deltas_are_a_group(first: bytes, second: bytes, third: bytes) -> None:
    there, on = delta.between(first, second), delta.between(second, third)
    assert delta.apply(first, there, bytes_max=SMALL) == second
    assert delta.invert(there, bytes_max=SMALL) == delta.between(second, first)
    assert delta.compose([there, on], bytes_max=SMALL) == delta.between(first, third)
    assert delta.compose([there, delta.invert(there, bytes_max=SMALL)], bytes_max=SMALL) == b""
    assert delta.apply_all(first, [there, on], bytes_max=SMALL) == third


@given(first=small_images, second=small_images, other=small_images)
def test_a_delta_applies_to_its_own_base_only(first: bytes, second: bytes, other: bytes) -> None:
    change = delta.between(first, second)
    try:
        result = delta.apply(other, change, bytes_max=SMALL)
    except FacetError as error:
        assert error.code == "facet_delta_mismatch"
        assert other != first
    else:
        assert not change or (other, result) == (first, second)


@st.composite
def almost_deltas(draw: st.DrawFn) -> bytes:
    """Bytes that begin well: a true delta with parts changed, cut, doubled."""
    content = bytearray(delta.between(draw(small_images), draw(small_images)) or b"\xd1\x00")
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(content)))
        content[at : at + draw(st.integers(0, 5))] = draw(st.binary(max_size=5))
    return bytes(content)


@given(hostile=st.one_of(st.binary(max_size=200), almost_deltas()), base=small_images)
def test_any_bytes_are_a_delta_or_a_facet_error(hostile: bytes, base: bytes) -> None:
    for use in (
        lambda: delta.check(hostile, bytes_max=SMALL),
        lambda: delta.compose([hostile, hostile], bytes_max=SMALL),
        lambda: delta.apply_backwards(base, hostile, bytes_max=SMALL),
        lambda: delta.apply(base, hostile, bytes_max=SMALL),
    ):
        try:
            result = use()
        except FacetError:
            continue
        assert result is None or isinstance(result, delta.Header) or len(result) <= 2 * SMALL


# --- a facet is a dict with rollback

LIMITS = Limits(facet_bytes_max=256 * 1024)


class FacetAgainstDict(RuleBasedStateMachine):
    """Steps, savepoints, mistakes, crashes: the facet holds what a dict holds; the host's copy follows by deltas alone."""

    @initialize()
    def start(self) -> None:
        self.facet = Facet(b"", LIMITS)
        self.stored = b""  # what the host has: base + deltas
        self.kept: dict[int, str] = {}
        self.live: dict[int, str] | None = None
        self.marks: list[tuple[object, dict[int, str]]] = []
        self.facet.begin_step()
        self.facet.execute("create table pair(k integer primary key, v text not null)")
        self._take()

    def _take(self) -> None:
        self.stored = delta.apply(self.stored, self.facet.commit_step(), bytes_max=LIMITS.facet_bytes_max)

    in_step = precondition(lambda self: self.live is not None)

    @precondition(lambda self: self.live is None)
    @rule()
    def begin(self) -> None:
        self.facet.begin_step()
        self.live = dict(self.kept)

    @in_step
    @rule(key=keys, value=st.text(max_size=300))
    def put(self, key: int, value: str) -> None:
        assert self.live is not None
        self.facet.execute("insert or replace into pair values (?, ?)", (key, value))
        self.live[key] = value

    @in_step
    @rule(items=st.dictionaries(keys, st.text(max_size=3), max_size=5), is_wrong=st.booleans())
    def put_many(self, items: dict[int, str], is_wrong: bool) -> None:
        assert self.live is not None
        rows: list[tuple[int, str | None]] = [*items.items(), *([(99, None)] if is_wrong else [])]
        try:
            self.facet.executemany("insert into pair values (?, ?) on conflict(k) do update set v = excluded.v", rows)
        except ConstraintFailed:
            assert is_wrong
        else:
            self.live |= items

    @in_step
    @rule(key=keys)
    def delete(self, key: int) -> None:
        assert self.live is not None
        self.facet.execute("delete from pair where k = :key", {"key": key})
        self.live.pop(key, None)

    @in_step
    @rule()
    def mistake(self) -> None:
        for sql in ("insert into pair values (1, null)", "select nope", "commit", "rollback"):
            try:
                self.facet.execute(sql)
            except FacetError:
                continue
            raise AssertionError(sql)

    @in_step
    @precondition(lambda self: len(self.marks) < 3)
    @rule()
    def savepoint(self) -> None:
        assert self.live is not None
        mark = self.facet.savepoint()
        mark.__enter__()
        self.marks.append((mark, dict(self.live)))

    @precondition(lambda self: self.marks)
    @rule(is_failing=st.booleans())
    def end_savepoint(self, is_failing: bool) -> None:
        mark, before = self.marks.pop()
        if is_failing:
            assert not mark.__exit__(ZeroDivisionError, ZeroDivisionError(), None)  # type: ignore[attr-defined]
            self.live = before
        else:
            mark.__exit__(None, None, None)  # type: ignore[attr-defined]

    @precondition(lambda self: self.live is not None and not self.marks)
    @rule()
    def commit(self) -> None:
        assert self.live is not None
        self._take()
        self.kept, self.live = self.live, None

    @precondition(lambda self: self.live is not None and not self.marks)
    @rule()
    def roll_back(self) -> None:
        self.facet.rollback_step()
        self.live = None

    @precondition(lambda self: self.live is not None and not self.marks)
    @rule()
    def spoil(self) -> None:
        try:
            self.facet.execute("insert or rollback into pair values (1, null)")
        except ConstraintFailed:
            pass
        try:
            self.facet.commit_step()
        except Refused as error:
            assert error.code == "facet_step_spoilt"
        self.live = None

    @precondition(lambda self: not self.marks)
    @rule()
    def crash(self) -> None:
        """The sandbox dies; the next one gets what the host has."""
        self.facet = Facet(self.stored, LIMITS)
        self.live = None

    @precondition(lambda self: self.live is None)
    @rule()
    def close(self) -> None:
        self.facet.close()

    @invariant()
    def agrees(self) -> None:
        if self.live is not None:
            assert dict(self.facet.execute("select k, v from pair")) == self.live
        elif hasattr(self, "facet"):
            assert self.facet.image() == self.stored
            assert dict(Facet.read_only(self.stored).execute("select k, v from pair")) == self.kept


TestFacetAgainstDict = FacetAgainstDict.TestCase
