"""What every handle asks through: an operation's name and arguments in, its answer out."""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from executor.core.errors import Refused
from executor.operations import OPERATIONS, Arguments, Operation
from executor.operations.texts import LONE_SURROGATES, lone_surrogates

PAGE = 1000
"""Rows that one call asks for, where all are wanted."""


class AsyncTransport(Protocol):
    """Carries operations to a service. Errors are PerdureErrors, whatever is between."""

    async def open(self) -> None: ...
    async def close(self) -> None: ...
    async def call(self, operation: Operation, path: tuple[str, ...], arguments: Arguments) -> Any: ...
    async def result(self, tenant: str, instance: str, timeout_s: float | None) -> Any: ...
    def url(self, path: str) -> str: ...


class AsyncCaller:
    """Hands operations to a transport. It checks their arguments, so that both transports refuse the same way."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport
        self._is_open = False

    async def open(self) -> None:
        if not self._is_open:
            await self._transport.open()
            self._is_open = True

    async def close(self) -> None:
        await self._transport.close()

    def url(self, path: str) -> str:
        return self._transport.url(path)

    async def result(self, tenant: str, instance: str, timeout_s: float | None) -> Any:
        await self.open()
        return await self._transport.result(tenant, instance, timeout_s)

    async def call(self, name: str, /, *path: str, **arguments: Any) -> Any:
        """Do the operation `name`. Raises Refused: the arguments are not what it takes."""
        operation = OPERATIONS[name]
        await self.open()
        for part in path:
            if not isinstance(part, str):
                raise Refused(f"{part!r} is not a name.", code="invalid_name", hint="Names are text.")
        try:
            checked = msgspec.convert(arguments, operation.arguments)
        except msgspec.ValidationError as error:
            raise Refused(f"The arguments of {name} are wrong: {error}.") from None
        place = lone_surrogates(checked)
        if place is not None:
            raise Refused(
                f"The arguments of {name} are wrong: {LONE_SURROGATES} - at `${place}`.",
                hint="Decode the bytes with errors='replace'.",
            )
        return await self._transport.call(operation, path, checked)


class AsyncOfTenant:
    """What is asked about one tenant."""

    def __init__(self, caller: AsyncCaller, name: str) -> None:
        self._caller = caller
        self.name = name

    async def _call(self, operation: str, /, *path: str, **arguments: Any) -> Any:
        return await self._caller.call(operation, self.name, *path, **arguments)
