"""The OpenAPI 3.1 document, from the table of operations and the views' types."""

from __future__ import annotations

import inspect
from typing import Any

import msgspec

from executor.core.errors import CODES
from executor.operations import API_PREFIX, OPERATIONS, Operation

_REFERENCE = "#/components/schemas/{name}"


class ErrorBody(msgspec.Struct):
    """Every error; `code` is stable."""

    family: str
    code: str
    message: str
    hint: str | None
    details: dict[str, Any]


def document() -> dict[str, Any]:
    """The whole document as JSON values; the same for the same release."""
    kinds = [row.arguments for row in OPERATIONS.values()]
    kinds += [row.result for row in OPERATIONS.values() if row.result not in (None, bytes)]
    _, components = msgspec.json.schema_components([*kinds, ErrorBody], ref_template=_REFERENCE)
    components["ErrorBody"]["properties"]["code"]["enum"] = list(CODES)
    for schema in components.values():
        if "description" in schema:
            schema["description"] = inspect.cleandoc(schema["description"])
    paths: dict[str, Any] = {}
    for row in OPERATIONS.values():
        path = API_PREFIX + row.path.replace(":path}", "}")
        paths.setdefault(path, {})[row.method.lower()] = _operation(row, components)
    for suffix, summary in (("/logs/stream", "Log lines as they come"), ("/stream", "Journal entries as they come")):
        paths[API_PREFIX + OPERATIONS["status"].path + suffix] = {"get": _stream(OPERATIONS["status"], suffix, summary)}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Perdure",
            "version": "1",
            "description": "Durable workflows for many tenants whose code arrives by git push.",
        },
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "responses": {
                "error": {
                    "description": "An error in the one shape of all errors.",
                    "content": {"application/json": {"schema": {"$ref": _REFERENCE.format(name="ErrorBody")}}},
                }
            },
        },
    }


def _operation(row: Operation, components: dict[str, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": row.name,
        "summary": row.summary,
        "x-access": row.access,
        "parameters": _path_parameters(row),
        "responses": {str(row.status): _success(row), "default": {"$ref": "#/components/responses/error"}},
    }
    if row.access == "none":
        described["security"] = []
    schema = components[row.arguments.__name__]
    if row.method == "POST":
        reference = {"$ref": _REFERENCE.format(name=row.arguments.__name__)}
        needed = bool(schema.get("required"))
        described["requestBody"] = {"required": needed, "content": {"application/json": {"schema": reference}}}
    else:
        described["parameters"] += [
            {"name": name, "in": "query", "required": name in schema.get("required", []), "schema": kind}
            for name, kind in schema.get("properties", {}).items()
        ]
    return described


def _success(row: Operation) -> dict[str, Any]:
    if row.result is None:
        return {"description": "Done."}
    if row.result is bytes:
        return {"description": row.summary, "content": {row.media_type: {}}}
    (schema,), _ = msgspec.json.schema_components([row.result], ref_template=_REFERENCE)
    return {"description": row.summary, "content": {"application/json": {"schema": schema}}}


def _path_parameters(row: Operation) -> list[dict[str, Any]]:
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in row.parameters]


def _stream(row: Operation, suffix: str, summary: str) -> dict[str, Any]:
    resume = {"name": "Last-Event-ID", "in": "header", "schema": {"type": "string"}}
    after = {"name": "after", "in": "query", "schema": {"type": "integer"}}
    return {
        "operationId": "stream_logs" if suffix.startswith("/logs") else "stream_journal",
        "summary": f"{summary}, as server-sent events; resumes after Last-Event-ID",
        "x-access": "read",
        "parameters": [*_path_parameters(row), resume, after],
        "responses": {
            "200": {"description": summary, "content": {"text/event-stream": {}}},
            "default": {"$ref": "#/components/responses/error"},
        },
    }
