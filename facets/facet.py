"""Facet: the private database of one instance, over a page image. Runs inside the sandbox.

Life of a step: `begin_step`, any number of statements, then `commit_step`, which gives the delta that travels in the
step's record, or `rollback_step`. SQLite is not even opened before the first statement. A step is one transaction:
all of it, or nothing. If SQLite itself gives a transaction up half-way (interrupted, full, out of memory, ON CONFLICT
ROLLBACK), the step is *spoilt*: every further statement and the commit are refused, so that half a step is never
kept.

A large facet is not here as a whole: its pages are fetched as statements touch them (pages.py), and a statement blocks
until they have come.

A Facet may be used from several threads; one statement runs at a time. Nothing here is durable: the delta is, once its
record is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, Self, TypeVar

import apsw

from facets import image as image_module
from facets.errors import Conflict, FacetError, Refused
from facets.fence import Fence
from facets.image import PAGE_BYTES, PageImage, Paging
from facets.limits import Limits
from facets.pages import Fetch, Fetched, PageCache
from facets.row import Parameters, Row, checked, row_class
from facets.translate import READ_ONLY_HINT, translated

_T = TypeVar("_T")
_DEFAULT_LIMITS = Limits()
_SPOILT_HINT = "Let the step raise: its writes are rolled back, and a retry starts afresh."


def prepare_process(limits: Limits = _DEFAULT_LIMITS) -> None:
    """Fit this process's SQLite to hold many small facets. Call once, in the zygote, before anything opens a database.

    Turns lookaside off (27 KB instead of 149 KB for each open facet, no slower), bounds SQLite's memory to
    `limits.sqlite_heap_bytes_max` and registers the VFS, so that forked children inherit all three. It holds for every
    user of this copy of SQLite in the process: do not call it in a process that keeps databases of its own.
    """
    apsw.shutdown()
    apsw.config(apsw.SQLITE_CONFIG_LOOKASIDE, 0, 0)
    apsw.initialize()
    apsw.hard_heap_limit(limits.sqlite_heap_bytes_max)
    image_module._register()


class Facet:
    """One database over an image. Cheap to make: SQLite is opened at the first statement."""

    def __init__(
        self,
        image: bytes | Fetched = b"",
        limits: Limits = _DEFAULT_LIMITS,
        *,
        fetch: Fetch | None = None,
        cache: PageCache | None = None,
    ) -> None:
        """`image` is the SQLite file as of the last record, b"" if none, or the beginning of a large one.

        `fetch` gets the pages of a large one, whether it is large already or grows; `cache` may be shared by several.
        Without `fetch` it is here as a whole, however large it grows. Raises Refused (`facet_too_large`).
        """
        paging = None
        if fetch is not None:
            paging = Paging(fetch, cache or PageCache(limits.page_cache_bytes_max), limits.paged_bytes_min)
        self._image = PageImage(
            image if isinstance(image, bytes) else b"",
            bytes_max=limits.facet_bytes_max,
            stamp=None if isinstance(image, bytes) else image.stamp,
            paging=paging,
            step_bytes_max=limits.delta_bytes_max,
        )
        if isinstance(image, Fetched) and self._image.pages is not None:
            self._image.pages.take(image)
        self._limits = limits
        self._is_read_only = False
        self._connection: apsw.Connection | None = None
        self._fence: Fence | None = None
        self._state: Literal["idle", "ready", "begun", "spoilt"] = "idle"
        self._step_number = 0
        self._savepoints: list[object] = []
        self._names: tuple[str, ...] | None = None
        self._lock = threading.RLock()

    @classmethod
    def read_only(
        cls,
        image: bytes | Fetched,
        limits: Limits = _DEFAULT_LIMITS,
        *,
        fetch: Fetch | None = None,
        cache: PageCache | None = None,
    ) -> Self:
        """A facet to query: needs no step, and refuses to write (`facet_read_only`)."""
        facet = cls(image, limits, fetch=fetch, cache=cache)
        facet._is_read_only = True
        return facet

    def begin_step(self) -> StepFacet:
        """Begin a step's transaction; what is returned is the facet for that step's code alone.

        Raises Conflict (`facet_step_open`) if another step holds the facet.
        """
        with self._lock:
            assert not self._is_read_only, "a read-only facet has no steps"
            if self._state != "idle":
                raise Conflict(
                    "Another step is using this facet.",
                    code="facet_step_open",
                    hint="Steps take turns: the facet belongs to one step from its first write to its end.",
                )
            self._state = "ready"
            self._step_number += 1
            self._savepoints.clear()
            return StepFacet(self, self._step_number)

    def commit_step(self) -> bytes:
        """End the step and keep its writes: the delta for its record, b"" if it changed nothing.

        Raises ConstraintFailed (a deferred foreign key), Refused (`facet_step_spoilt`, `facet_delta_too_large`).
        After any error the step has been rolled back and is over.
        """
        with self._lock:
            assert self._state != "idle", "no step is open"
            if self._state == "ready":
                self._state = "idle"
                return b""
            try:
                if self._state == "spoilt":
                    raise _spoilt()
                self._platform("commit")
                delta = self._image.take_delta(delta_bytes_max=self._limits.delta_bytes_max)
                self._state = "idle"
            except BaseException:
                self.rollback_step()
                raise
            return delta

    def rollback_step(self) -> None:
        """End the step and undo its writes."""
        with self._lock:
            assert self._state != "idle", "no step is open"
            try:
                if self._connection is not None and self._connection.in_transaction:
                    self._platform("rollback")
            except FacetError:
                # A transaction that SQLite cannot undo is undone below, from the bytes that the image kept.
                self.close()
            if self._image.is_changed:
                self.close()
            self._image.revert()
            self._state = "idle"

    def execute(self, sql: str, parameters: Parameters = ()) -> list[Row]:
        """Run `sql` and return its rows, if it gives any. `?` take a sequence, `:name` take a mapping.

        Several statements may be separated by semicolons; one that fails leaves those before it done (raise out of the
        step to undo all). Not a checkpoint. Raises ConstraintFailed, Corrupt (`facet_image_corrupt`), and Refused with
        `facet_sql_error`, `facet_sql_forbidden`, `facet_transaction`, `facet_statement_timeout`, `facet_value`,
        `facet_value_too_large`, `facet_parameters`, `facet_result_too_large`, `facet_full`, `facet_memory`,
        `facet_no_step`, `facet_step_spoilt`, `facet_read_only`.
        """
        bound = checked(parameters)
        return self._run(sql, lambda connection: self._rows(connection, sql, bound))

    def executemany(self, sql: str, parameters: Iterable[Parameters]) -> list[Row]:
        """Run `sql` once for each of `parameters`: for all or, after an error, for none. Otherwise as `execute`."""
        bound = [checked(item) for item in parameters]

        def run(connection: apsw.Connection) -> list[Row]:
            with self.savepoint():
                return self._rows(connection, sql, bound, many=True)

        return self._run(sql, run)

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """Undo what is written inside the block if it raises, without giving up the rest of the step. May be nested.

        Blocks of several threads that overlap without nesting cannot be undone singly: then the step is spoilt.
        """
        with self._lock:
            if self._is_read_only:
                raise Refused("This facet is open for reading only.", code="facet_read_only", hint=READ_ONLY_HINT)
            self._ready()
            step = self._step_number
            name = f"platform_{len(self._savepoints)}"
            self._platform(f"savepoint {name}")
            self._savepoints.append(mark := object())
        try:
            yield
        except BaseException:
            with self._lock:
                self._notice_lost_transaction()
                if self._state == "begun" and step == self._step_number:
                    if self._drop_savepoint(mark):
                        self._platform(f"rollback to {name};release {name}")
                    else:
                        self._state = "spoilt"
            raise
        with self._lock:
            self._ready()
            if step == self._step_number and self._drop_savepoint(mark):
                self._platform(f"release {name}")

    def _drop_savepoint(self, mark: object) -> bool:
        """Forget a savepoint and those inside it; False if one around it has ended already, and this one with it."""
        if mark not in self._savepoints:
            return False
        del self._savepoints[self._savepoints.index(mark) :]
        return True

    @property
    def last_insert_rowid(self) -> int:
        """Row id of the last insert of this facet; 0 before the first."""
        with self._lock:
            return 0 if self._connection is None else self._connection.last_insert_rowid()

    @property
    def change_count(self) -> int:
        """Rows that the last INSERT, UPDATE or DELETE changed."""
        with self._lock:
            return 0 if self._connection is None else self._connection.changes()

    def image(self) -> bytes:
        """The image as of the last committed step: an ordinary SQLite file (b"" if nothing was ever written).

        A large one is fetched for it, and is then in memory as a whole.
        """
        with self._lock:
            assert self._state != "begun", "a step is writing"
            return self._image.data()

    def close(self) -> None:
        """Let SQLite's memory go. The image stays; the next statement opens it again. Ends no step."""
        with self._lock:
            if self._connection is not None:
                self._connection.close(force=True)
                self._connection = self._fence = None

    def discard(self) -> None:
        """It is not used any more: let go of what it shares with others, also while a statement of it still runs."""
        if self._image.pages is not None:
            self._image.pages.close()

    def _run(self, sql: str, work: Callable[[apsw.Connection], _T]) -> _T:
        with self._lock:
            if not isinstance(sql, str) or "\0" in sql:
                raise Refused(
                    "SQL is a text without NUL characters.", code="facet_sql_error", hint="Pass values as parameters."
                )
            if len(sql) > self._limits.sql_bytes_max:
                raise Refused(
                    f"A statement of {len(sql)} characters is over the limit of {self._limits.sql_bytes_max} bytes.",
                    code="facet_sql_error",
                    hint="Pass values as parameters.",
                )
            connection, fence = self._ready()
            fence.start_clock(self._limits.statement_ms_max)
            try:
                return work(connection)
            except (apsw.Error, MemoryError, OverflowError, UnicodeError, KeyError) as error:
                raise translated(error, sql, self._limits) from None
            finally:
                fence.stop_clock()
                self._notice_lost_transaction()

    def _notice_lost_transaction(self) -> None:
        """After an error SQLite may have rolled back; the next statement must not commit on its own."""
        if self._state == "begun" and (self._connection is None or not self._connection.in_transaction):
            self._state = "spoilt"

    def _rows(self, connection: apsw.Connection, sql: str, bound: Any, *, many: bool = False) -> list[Row]:
        cursor = connection.cursor()
        cursor.exec_trace = self._on_statement
        rows: list[Row] = []
        make: Callable[[tuple[Any, ...]], Row] = Row
        left = self._limits.result_bytes_max
        try:
            for values in cursor.executemany(sql, bound) if many else cursor.execute(sql, bound):
                if self._names is None:
                    self._names = tuple([column[0] for column in cursor.get_description()])
                    make = row_class(self._names)
                rows.append(make(values))
                for value in values:
                    if type(value) is str or type(value) is bytes:
                        left -= len(value)
                if left < 0 or len(rows) > self._limits.result_row_count_max:
                    raise _result_too_large(self._limits)
        finally:
            cursor.close(force=True)
        return rows

    def _on_statement(self, cursor: apsw.Cursor, sql: str, bindings: object) -> bool:
        """Called as each statement begins: its columns are not the last one's."""
        del cursor, sql, bindings
        self._names = None
        return True

    def _ready(self) -> tuple[apsw.Connection, Fence]:
        """The connection, inside the step's transaction. Raises Refused if there is no step, or a spoilt one."""
        if self._state == "spoilt":
            raise _spoilt()
        if self._state == "idle" and not self._is_read_only:
            raise Refused(
                "The facet was used outside a step.",
                code="facet_no_step",
                hint="Read and write it inside a step: run() itself is replayed, and must not depend on it.",
            )
        if self._connection is None or self._fence is None:
            try:
                self._connection, self._fence = self._opened()
            except (apsw.Error, MemoryError) as error:
                raise translated(error, "", self._limits) from None
        if self._state == "ready":
            self._platform("begin")
            self._state = "begun"
        return self._connection, self._fence

    def _opened(self) -> tuple[apsw.Connection, Fence]:
        connection = self._image.connect(read_only=self._is_read_only)
        try:
            page_bytes = int(connection.pragma("page_size")) if self._image.size else PAGE_BYTES
            return connection, Fence(connection, self._limits, page_bytes=page_bytes)
        except BaseException:
            connection.close(force=True)
            raise

    def _platform(self, sql: str) -> None:
        """Run the platform's own statement. Not cached: the tenant's of the same text must meet the authorizer."""
        assert self._connection is not None
        assert self._fence is not None
        self._fence.is_open = True
        try:
            for _ in self._connection.cursor().execute(sql, can_cache=False):
                pass
        except (apsw.Error, MemoryError) as error:
            raise translated(error, sql, self._limits) from None
        finally:
            self._fence.is_open = False


class StepFacet:
    """The facet as one step sees it; of no use once that step is over.

    A step that was given up (timed out) may still run in its thread: with this it cannot write into the next step's
    transaction, but is refused (`facet_no_step`).
    """

    __slots__ = ("_facet", "_number")

    def __init__(self, facet: Facet, number: int) -> None:
        self._facet = facet
        self._number = number

    def execute(self, sql: str, parameters: Parameters = ()) -> list[Row]:
        """As `Facet.execute`."""
        with self._current() as facet:
            return facet.execute(sql, parameters)

    def executemany(self, sql: str, parameters: Iterable[Parameters]) -> list[Row]:
        """As `Facet.executemany`."""
        bound = list(parameters)  # a generator of the tenant's must not run under the facet's lock
        with self._current() as facet:
            return facet.executemany(sql, bound)

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """As `Facet.savepoint`."""
        with self._current() as facet:
            block = facet.savepoint()
            block.__enter__()
        try:
            yield
        except BaseException as error:
            block.__exit__(type(error), error, error.__traceback__)
            raise
        block.__exit__(None, None, None)

    @property
    def last_insert_rowid(self) -> int:
        """As `Facet.last_insert_rowid`."""
        with self._current() as facet:
            return facet.last_insert_rowid

    @property
    def change_count(self) -> int:
        """As `Facet.change_count`."""
        with self._current() as facet:
            return facet.change_count

    @contextmanager
    def _current(self) -> Iterator[Facet]:
        with self._facet._lock:
            if self._facet._state == "idle" or self._facet._step_number != self._number:
                raise Refused(
                    "The step that this facet was given to is over.",
                    code="facet_no_step",
                    hint="A step must not leave threads or tasks behind that write.",
                )
            yield self._facet


def _spoilt() -> Refused:
    return Refused(
        "An earlier statement of this step failed so that SQLite rolled the whole step back.",
        code="facet_step_spoilt",
        hint=_SPOILT_HINT,
    )


def _result_too_large(limits: Limits) -> Refused:
    return Refused(
        f"The result has more than {limits.result_row_count_max} rows or {limits.result_bytes_max} bytes.",
        code="facet_result_too_large",
        hint="Add a LIMIT, or let SQL do the summing.",
    )
