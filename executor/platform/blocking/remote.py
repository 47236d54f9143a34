# Generated from executor/platform/asynchronous/remote.py by tools/unasync.py. Edit that file, and run the tool.
"""Remote: the transport to a server, over HTTP, on asyncio and trio."""

from __future__ import annotations

import ssl
import time
from typing import Any
from urllib.parse import quote, urlsplit

import httpx2
import msgspec

from executor import wire
from executor.core.errors import PerdureError, Refused, Unavailable, from_json
from executor.operations import API_PREFIX, OPERATIONS, Arguments, Operation
from executor.operations.reading import Result
from executor.views import ResultView

CONNECT_S = 10.0
ANSWER_S = 60.0
"""Longest silence before an answer counts as lost; waits that the caller asked for come on top."""
RESULT_CHUNK_S = 30.0
"""One request of a long wait: short enough for every proxy between."""
_OWN_FIELDS = frozenset({"self", "message", "code", "hint"})


class Remote:
    """Calls operations on a server with one token. Connections are kept and shared."""

    def __init__(self, url: str, *, token: str | None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise Refused(f"{url!r} is not the URL of a server.", hint="For example http://127.0.0.1:8420")
        if token is not None and not (token.isascii() and token.isprintable()):
            raise Refused("The token has characters that no token has.", code="unauthorized")
        self._url = url.rstrip("/")
        self._client = httpx2.Client(
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=httpx2.Timeout(ANSWER_S, connect=CONNECT_S),
            # Proxies of the environment are for the world outside; a loopback server is not behind one.
            # A plain connection needs no certificates: loading the world's takes 40 ms. Redirects are not followed.
            verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if parts.scheme == "http" else True,
            trust_env=parts.hostname not in ("127.0.0.1", "::1", "localhost"),
        )

    def open(self) -> None:
        """Nothing is sent before the first call."""

    def close(self) -> None:
        self._client.close()

    def call(self, operation: Operation, path: tuple[str, ...], arguments: Arguments) -> Any:
        """Do `operation`; its answer as the service gives it, its error as the service raises it.

        Raises also Unavailable (`unreachable`): no answer; whether the operation was done is then unknown, and
        repeating a start or an event with its id is safe.
        """
        wait_s = getattr(arguments, "wait_s", 0.0) + getattr(arguments, "timeout_s", 0.0)
        url = self._url + API_PREFIX + _fill(operation, path)
        content, query = None, None
        if operation.method == "POST":
            content = wire.encode_arguments(arguments)
        else:
            query = {key: value for key, value in msgspec.to_builtins(arguments).items() if value is not None}
        try:
            answer = self._client.request(
                operation.method,
                url,
                content=content,
                params=query or None,
                headers={"Content-Type": "application/json"} if content is not None else None,
                timeout=httpx2.Timeout(ANSWER_S + wait_s, connect=CONNECT_S),
            )
        except httpx2.TransportError as error:
            raise Unavailable(
                f"The server {self._url} could not be reached: {error or type(error).__name__}.",
                code="unreachable",
                hint="Check its address, and that it runs (perdure serve).",
            ) from error
        return self._read(operation, answer)

    def result(self, tenant: str, instance: str, timeout_s: float | None) -> Any:
        """As Service.result, in requests of at most half a minute each."""
        operation = OPERATIONS["result"]
        ends = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left_s = RESULT_CHUNK_S if ends is None else round(max(0.0, ends - time.monotonic()), 3)
            try:
                return self.call(operation, (tenant, instance), Result(timeout_s=min(left_s, RESULT_CHUNK_S)))
            except Unavailable as error:
                if error.code != "timeout":
                    raise
                if left_s <= RESULT_CHUNK_S and ends is not None:
                    raise

    def url(self, path: str) -> str:
        return self._url + path

    def _read(self, operation: Operation, answer: httpx2.Response) -> Any:
        if answer.status_code >= 300:
            raise self._error(answer)
        if operation.result is None:
            return None
        if operation.result is bytes:
            return answer.content
        try:
            value = wire.decode(answer.content, operation.result)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self._strange(answer) from error
        return value.output if isinstance(value, ResultView) else value

    def _error(self, answer: httpx2.Response) -> PerdureError:
        try:
            body = msgspec.json.decode(answer.content)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return self._strange(answer)
        if isinstance(body, dict) and "code" in body and "family" in body:
            details = body.get("details")
            if isinstance(details, dict):
                # Facts that are called like the error's own fields would be taken for them.
                body["details"] = {key: value for key, value in details.items() if key not in _OWN_FIELDS}
            return from_json(body)
        return self._strange(answer)

    def _strange(self, answer: httpx2.Response) -> Unavailable:
        return Unavailable(
            f"What answered at {self._url} is not a Perdure server of this release (HTTP {answer.status_code}).",
            code="unreachable",
            hint="Check the address, and whatever stands between.",
        )


def _fill(operation: Operation, path: tuple[str, ...]) -> str:
    """The operation's path with its parameters. Raises Refused (`invalid_name`): a text that no URL can carry."""
    names = operation.parameters
    assert len(names) == len(path), operation.name
    filled = operation.path.replace(":path}", "}")
    for name, text in zip(names, path, strict=True):
        whole = "{path}" if name == "path" else ""
        segments = text.split("/") if whole else [text]
        # Lone surrogates have no UTF-8 form, and so none in a URL.
        quoted = quote(text, safe="/" if whole else "", errors="ignore")
        is_unicode = text.encode(errors="ignore").decode() == text
        if not is_unicode or any(segment in ("", ".", "..") or "/" in segment for segment in segments):
            raise Refused(
                f"{text!r} is no {name}.", code="invalid_name", hint="Names have no slashes and are not empty."
            )
        filled = filled.replace("{" + name + "}", quoted)
    return filled
