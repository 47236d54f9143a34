"""The OpenAPI document tells every route, and nothing but them."""

from __future__ import annotations

from typing import Any

from executor.core.errors import CODES
from executor.http import openapi
from executor.operations import API_PREFIX, OPERATIONS
from tests.executor.surface import Served


def _references(node: Any) -> set[str]:
    if isinstance(node, dict):
        found = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
        return found.union(*(_references(value) for value in node.values()))
    return set().union(*(_references(item) for item in node)) if isinstance(node, list) else set()


def test_every_operation_is_documented_once() -> None:
    document = openapi.document()
    ids = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]
    assert sorted(ids) == sorted([*OPERATIONS, "stream_logs", "stream_journal"])
    for row in OPERATIONS.values():
        operation = document["paths"][API_PREFIX + row.path.replace(":path}", "}")][row.method.lower()]
        named = [item["name"] for item in operation["parameters"] if item["in"] == "path"]
        assert named == row.parameters


def test_every_reference_of_the_document_leads_somewhere() -> None:
    document = openapi.document()
    for reference in _references(document):
        node: Any = document
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]


def test_the_document_lists_every_error_code_and_is_served_as_it_is(served: Served) -> None:
    answer = served.stranger.get(API_PREFIX + "/openapi.json")
    assert answer.json() == openapi.document()
    assert answer.json()["components"]["schemas"]["ErrorBody"]["properties"]["code"]["enum"] == list(CODES)


def test_every_documented_route_exists(served: Served) -> None:
    for path, operations in openapi.document()["paths"].items():
        for method in operations:
            answer = served.stranger.request(method.upper(), path.replace("{", "").replace("}", ""))
            assert answer.status_code != 405
            assert answer.headers["content-type"] == "application/json"
            assert answer.json().get("code") != "route_not_found", path
