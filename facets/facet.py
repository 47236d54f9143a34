"""Facet: the private database of one instance, over a page image. Runs inside the sandbox.

Life of a step: `begin_step`, any number of statements, then `commit_step`, which gives the delta that travels in the
step's record, or `rollback_step`. SQLite is not even opened before the first statement. A step is one transaction:
all of it, or nothing. If SQLite itself gives a transaction up half-way (interrupted, full, out of memory, ON CONFLICT
ROLLBACK), the step is *spoilt*: every further statement and the commit are refused, so that half a step is never
kept.

A Facet may be used from several threads; one statement runs at a time. Nothing here is durable: the delta is, once its
record is.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Self, TypeAlias, TypeVar

import apsw

from facets import image as image_module
from facets.errors import Conflict, ConstraintFailed, Corrupt, FacetError, Refused
from facets.fence import Fence
from facets.image import PAGE_BYTES, PageImage
from facets.limits import Limits
from facets.row import Row, Value, row_class

Parameters: TypeAlias = Sequence[Value] | Mapping[str, Value]

_T = TypeVar("_T")
_DEFAULT_LIMITS = Limits()
_READ_ONLY_HINT = "Write inside a step of the workflow."
_VACUUM_HINT = "Free pages are used again; vacuum an exported copy."
_MEMORY_HINT = "Ask for less at once."
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

    def __init__(self, image: bytes = b"", limits: Limits = _DEFAULT_LIMITS) -> None:
        """`image` is the SQLite file as of the last record, b"" if none. Raises Refused (`facet_too_large`)."""
        self._image = PageImage(image, bytes_max=limits.facet_bytes_max)
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
    def read_only(cls, image: bytes, limits: Limits = _DEFAULT_LIMITS) -> Self:
        """A facet to query: needs no step, and refuses to write (`facet_read_only`)."""
        facet = cls(image, limits)
        facet._is_read_only = True
        return facet

    def begin_step(self) -> None:
        """Begin a step's transaction. Raises Conflict (`facet_step_open`) if another step holds the facet."""
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
            if self._connection is None:
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
        bound = _checked(parameters)
        return self._run(sql, lambda connection: self._rows(connection, sql, bound))

    def executemany(self, sql: str, parameters: Iterable[Parameters]) -> list[Row]:
        """Run `sql` once for each of `parameters`: for all or, after an error, for none. Otherwise as `execute`."""
        bound = [_checked(item) for item in parameters]

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
                raise Refused("This facet is open for reading only.", code="facet_read_only", hint=_READ_ONLY_HINT)
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
        """The image as of the last committed step: an ordinary SQLite file (b"" if nothing was ever written)."""
        with self._lock:
            assert self._state != "begun", "a step is writing"
            return self._image.data()

    def close(self) -> None:
        """Let SQLite's memory go. The image stays; the next statement opens it again. Ends no step."""
        with self._lock:
            if self._connection is not None:
                self._connection.close(force=True)
                self._connection = self._fence = None

    def _run(self, sql: str, work: Callable[[apsw.Connection], _T]) -> _T:
        with self._lock:
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
                raise _translated(error, sql, self._limits) from None
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
                raise _translated(error, "", self._limits) from None
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
            raise _translated(error, sql, self._limits) from None
        finally:
            self._fence.is_open = False


def _checked(parameters: Parameters) -> Parameters:
    """The parameters, if each is a value that a facet can hold."""
    if isinstance(parameters, str | bytes | bytearray) or not isinstance(parameters, Sequence | Mapping):
        raise Refused(
            f"Parameters are a sequence or a mapping, not {type(parameters).__name__}.",
            code="facet_parameters",
            hint="For a single value write (value,).",
        )
    for value in parameters.values() if isinstance(parameters, Mapping) else parameters:
        if value is None or isinstance(value, int | str | bytes):
            continue
        if not isinstance(value, float):
            raise _bad_value(f"A facet holds None, int, float, str and bytes, not {type(value).__name__}.")
        if math.isnan(value):
            raise _bad_value("A facet cannot hold NaN: SQLite would store NULL.")
    return parameters


def _bad_value(message: str) -> Refused:
    return Refused(message, code="facet_value", hint="Convert it: json.dumps(), .isoformat(), str(), float().")


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


# Exception, code, message (None: SQLite's own), hint. The first that fits counts.
_REFUSALS: tuple[tuple[type[Exception], str, str | None, str | None], ...] = (
    (
        apsw.InterruptError,
        "facet_statement_timeout",
        "The statement ran longer than {limits.statement_ms_max} ms and was stopped.",
        "Add an index or a LIMIT, or split the work into steps.",
    ),
    (
        apsw.FullError,
        "facet_full",
        "The facet has reached its limit of {limits.facet_bytes_max} bytes.",
        "Delete rows first, or keep large values outside the facet.",
    ),
    (
        apsw.TooBigError,
        "facet_value_too_large",
        "A value or row is over the limit of {limits.value_bytes_max} bytes.",
        "Keep large values outside the facet, and their names in it.",
    ),
    (apsw.NoMemError, "facet_memory", "The statement needs more memory than SQLite may use here.", _MEMORY_HINT),
    (MemoryError, "facet_memory", "The statement needs more memory than SQLite may use here.", _MEMORY_HINT),
    (apsw.ReadOnlyError, "facet_read_only", "This facet is open for reading only.", _READ_ONLY_HINT),
    (apsw.BindingsError, "facet_parameters", None, "Give one value for each ? or :name."),
    (KeyError, "facet_parameters", "There is no value for the parameter {error.args[0]}.", None),
    (OverflowError, "facet_value", "An integer does not fit into 64 bits.", "Store larger ones as text."),
    (UnicodeError, "facet_value", "A text cannot be encoded as UTF-8.", "Store such bytes as bytes."),
    (apsw.Error, "facet_sql_error", None, None),
)


def _translated(error: Exception, sql: str, limits: Limits) -> FacetError:
    """SQLite's error as one of ours: the third party's exceptions stop here."""
    place = f" Statement: {sql.strip()[:200]}" if sql else ""
    own = f"{str(error).rstrip('.')}.{place}"
    if isinstance(error, apsw.ConstraintError):
        return ConstraintFailed(own)
    if isinstance(error, apsw.CorruptError | apsw.NotADBError | apsw.CantOpenError | apsw.FormatError):
        return Corrupt(f"The facet's image is damaged: {own}", code="facet_image_corrupt")
    if "VACUUM" in str(error):
        return Refused("VACUUM is not allowed in a facet.", code="facet_sql_forbidden", hint=_VACUUM_HINT)
    for kind, code, message, hint in _REFUSALS:
        if isinstance(error, kind):
            text = own if message is None else message.format(limits=limits, error=error) + place
            return Refused(text, code=code, hint=hint)
    raise error
