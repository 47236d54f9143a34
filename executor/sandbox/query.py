"""SQL on a facet from outside: one statement, read only, in a sandbox of its own that imports no tenant code.

The image is the tenant's and may be made to attack SQLite, so it is never opened anywhere else. The sandbox is good for
one question and is killed after it: what an image may have done to it stays in it.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

from executor.sandbox.child_limits import ChildLimits
from executor.sandbox.facets_inside import Host, RunFacet
from executor.sandbox.protocol import Query, QueryAnswer
from facets.errors import FacetError, Unavailable
from facets.facet import Facet
from facets.pages import Fetched
from facets.query import query
from facets.row import Value

_parameters = msgspec.msgpack.Decoder(list[Any] | dict[str, Any])


class QueriedFacet(RunFacet):
    """A facet that is read from outside, as of the last durable record."""

    def __init__(self, run: int, host: Host, limits: ChildLimits) -> None:
        super().__init__(run, host, limits)
        self._process = host
        self._facet_limits = limits.facet

    def answer(self, question: Query) -> QueryAnswer:
        """Blocks the main thread until the answer is there, taking pages as they come."""
        self.ask()
        self._process.wait_for(lambda: self.is_loaded)
        try:
            if self._failure is not None:
                raise Unavailable(self._failure)
            assert self._facet is not None
            found = query(self._facet, question.sql, _parameters.decode(question.parameters), limit=question.limit)
        except FacetError as error:
            return QueryAnswer(question.run, [], [], False, error.code, error.message, error.hint or "")
        rows = [[_shown(value) for value in row] for row in found.rows]
        return QueryAnswer(question.run, found.columns, rows, found.is_cut, "", "", "")

    def _begin(self, image: bytes | Fetched) -> None:
        self._facet = Facet.read_only(image, self._facet_limits, fetch=self._fetch, cache=self._process.page_cache)


def _shown(value: Value) -> Value:
    """SQLite has infinities (9e999), JSON has not."""
    return str(value) if type(value) is float and not math.isfinite(value) else value
