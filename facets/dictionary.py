"""Names that repeat in every row, once each: states, tenants, and versions (tenant, workflow, commit).

Only the fold writes, so only the fold asks for an id by name and may keep it in memory; readers ask the database. An id
is a small number, and is used again only after nothing refers to it.
"""

from __future__ import annotations

import apsw

# The id here of what another database, attached as `source`, knows as `id`; by column of `instance`.
NEW_IDS = {
    "state": "(SELECT m.id FROM {source}.state AS s JOIN main.state AS m ON m.name = s.name WHERE s.id = {id})",
    "tenant": "(SELECT m.id FROM {source}.tenant AS s JOIN main.tenant AS m ON m.name = s.name WHERE s.id = {id})",
    "version": "(SELECT m.id FROM {source}.version AS s JOIN {source}.tenant AS t ON t.id = s.tenant "
    "JOIN main.tenant AS n ON n.name = t.name JOIN main.version AS m "
    'ON m.tenant = n.id AND m.workflow = s.workflow AND m."commit" = s."commit" WHERE s.id = {id})',
}

# More names than this are looked up again: memory is bounded whatever tenants do.
KEPT_MAX = 20_000


class Dictionary:
    """Ids by name, made when they are first asked for. To be used inside a write transaction."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._states: dict[str, int] = {}
        self._tenants: dict[str, int] = {}
        self._versions: dict[tuple[int, str, str], int] = {}

    def forget(self) -> None:
        """Ask the database again: names were dropped from it, or a transaction that made some was rolled back."""
        self._states.clear()
        self._tenants.clear()
        self._versions.clear()

    def state(self, name: str) -> int:
        found = self._states.get(name)
        if found is None:
            found = self._states[name] = self._id(
                "SELECT id FROM state WHERE name = ?", "INSERT INTO state(name) VALUES(?) RETURNING id", (name,)
            )
        return found

    def tenant(self, name: str) -> int:
        found = self._tenants.get(name)
        if found is None:
            if len(self._tenants) >= KEPT_MAX:
                self._tenants.clear()
            found = self._tenants[name] = self._id(
                "SELECT id FROM tenant WHERE name = ?", "INSERT INTO tenant(name) VALUES(?) RETURNING id", (name,)
            )
        return found

    def version(self, tenant: int, workflow: str, commit: str) -> int:
        name = (tenant, workflow, commit)
        found = self._versions.get(name)
        if found is None:
            if len(self._versions) >= KEPT_MAX:
                self._versions.clear()
            found = self._versions[name] = self._id(
                'SELECT id FROM version WHERE tenant = ? AND workflow = ? AND "commit" = ?',
                'INSERT INTO version(tenant, workflow, "commit") VALUES(?, ?, ?) RETURNING id',
                name,
            )
        return found

    def _id(self, asking: str, making: str, name: tuple[int | str, ...]) -> int:
        found = self._connection.execute(asking, name).get
        return int(found if found is not None else self._connection.execute(making, name).get)

    def drop_unused(self) -> None:
        """Forget versions and tenants without an instance, here and in the database: their names are erased too."""
        self._connection.execute(
            "DELETE FROM tally WHERE number = 0;"
            "DELETE FROM version WHERE id NOT IN (SELECT version FROM tally);"
            "DELETE FROM tenant WHERE id NOT IN (SELECT tenant FROM version)"
        )
        self.forget()


def copy_names(connection: apsw.Connection, source: str) -> None:
    """Names of the state database attached as `source`, as far as they are not here yet, get ids here."""
    for table in ("state", "tenant"):
        connection.execute(f"INSERT OR IGNORE INTO main.{table}(name) SELECT name FROM {source}.{table}")  # noqa: S608
    connection.execute(
        'INSERT OR IGNORE INTO main.version(tenant, workflow, "commit") '  # noqa: S608 - the caller's own name
        f'SELECT n.id, s.workflow, s."commit" FROM {source}.version AS s '
        f"JOIN {source}.tenant AS t ON t.id = s.tenant JOIN main.tenant AS n ON n.name = t.name"
    )


def count_again(connection: apsw.Connection) -> None:
    """The tally from the instances that are here, and no name that none of them needs."""
    connection.execute(
        "DELETE FROM tally; INSERT INTO tally SELECT version, state, count(*) FROM instance GROUP BY version, state"
    )
    Dictionary(connection).drop_unused()
