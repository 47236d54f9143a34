"""Git's door: who may enter, what is passed on, and that nothing stays open."""

from __future__ import annotations

import base64
import gzip
import time

import pytest
import trio

from tests.executor.surface import Served

UPLOAD = "/git/acme.git/git-upload-pack"
REQUEST = {"Content-Type": "application/x-git-upload-pack-request"}


def _basic(password: str, user: str = "anyone") -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def test_git_is_asked_for_a_password_with_a_challenge(served: Served) -> None:
    answer = served.stranger.get("/git/acme.git/info/refs", params={"service": "git-upload-pack"})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == 'Basic realm="Perdure", charset="UTF-8"'
    assert answer.headers["content-type"].startswith("text/plain")  # git shows plain text as `remote: …`


@pytest.mark.parametrize("user", ["x", "", "someone:else".partition(":")[0], "kím"])
def test_any_user_name_with_a_token_as_password_enters(served: Served, user: str) -> None:
    answer = served.stranger.get(
        "/git/acme.git/info/refs",
        params={"service": "git-upload-pack"},
        headers={**_basic(served.token("acme"), user), "Git-Protocol": "version=2"},
    )
    assert (answer.status_code, answer.text) == (200, "refs of acme for git-upload-pack version=2")
    assert answer.headers["content-type"] == "application/x-git-upload-pack-advertisement"
    assert answer.headers["cache-control"] == "no-cache, max-age=0, must-revalidate"
    assert answer.headers["expires"] == "Fri, 01 Jan 1980 00:00:00 GMT"
    assert answer.headers["pragma"] == "no-cache"


@pytest.mark.parametrize("header", ["Basic", "Basic !!!", "Basic //8=", "Digest x", "Basic eDo="])
def test_credentials_that_are_none_are_asked_for_again(served: Served, header: str) -> None:
    answer = served.stranger.get(
        "/git/acme.git/info/refs", params={"service": "git-upload-pack"}, headers={"Authorization": header}
    )
    assert answer.status_code == 401


def test_another_tenants_repository_is_not_found_whether_it_exists_or_not(served: Served) -> None:
    headers = _basic(served.token("acme"))
    texts = []
    for name in ("umbrella", "nobody"):
        for service in ("git-upload-pack", "git-receive-pack"):
            answer = served.stranger.get(f"/git/{name}.git/info/refs", params={"service": service}, headers=headers)
            assert answer.status_code == 404
            texts.append(answer.text.replace(name, "X"))
    assert len(set(texts)) == 1


def test_a_read_token_may_fetch_and_not_push(served: Served) -> None:
    headers = _basic(served.token("acme", "read"))
    for service, status in (("git-upload-pack", 200), ("git-receive-pack", 403)):
        answer = served.stranger.get("/git/acme.git/info/refs", params={"service": service}, headers=headers)
        assert answer.status_code == status


@pytest.mark.parametrize("query", ["", "?service=git-upload-archive", "?service="])
def test_the_dumb_protocol_and_other_services_are_refused(served: Served, query: str) -> None:
    headers = served.bearer("acme")
    assert served.stranger.get("/git/acme.git/info/refs" + query, headers=headers).status_code == 400
    assert served.stranger.get("/git/acme.git/HEAD", headers=headers).status_code == 404
    assert served.stranger.get("/git/acme.git/objects/info/packs", headers=headers).status_code == 404


@pytest.mark.parametrize("size", [0, 10, 3_000_000], ids=["empty", "memory", "disk"])
@pytest.mark.parametrize("encoding", ["identity", "gzip", "x-gzip", "chunked"])
def test_the_body_arrives_whole_however_it_is_sent(served: Served, size: int, encoding: str) -> None:
    plain = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    headers = {**REQUEST, **served.bearer("acme")}
    content: object = plain
    if encoding in ("gzip", "x-gzip"):
        content = gzip.compress(plain, 1, mtime=0)
        headers["Content-Encoding"] = encoding
    elif encoding == "chunked":
        content = iter([plain[:7], plain[7:]])
    answer = served.stranger.post(UPLOAD, content=content, headers=headers)  # type: ignore[arg-type]
    assert (answer.status_code, answer.text) == (200, "first second")
    assert answer.headers["content-type"] == "application/x-git-upload-pack-result"
    assert served.service.received == [plain]


@pytest.mark.parametrize(
    ("encoding", "body", "message"),
    [
        ("gzip", b"not gzip", "The request's body is not gzip"),
        ("gzip", gzip.compress(b"x" * 1000, mtime=0)[:-9], "The gzip stream of the request's body ends too early."),
        ("br", b"x", "Content-Encoding 'br' is not understood."),
    ],
)
def test_a_broken_encoding_is_refused(served: Served, encoding: str, body: bytes, message: str) -> None:
    headers = {**REQUEST, **served.bearer("acme"), "Content-Encoding": encoding}
    answer = served.stranger.post(UPLOAD, content=body, headers=headers)
    assert (answer.status_code, served.service.received) == (400, [])
    assert answer.text.startswith(message)


def test_a_form_of_a_web_page_cannot_push(served: Served) -> None:
    """A browser may send text/plain across origins without asking; git's content types it may not."""
    answer = served.stranger.post(
        UPLOAD, content=b"0000", headers={**served.bearer("acme"), "Content-Type": "text/plain"}
    )
    assert answer.status_code == 400


def test_the_conversation_is_closed_when_the_client_goes_away(served: Served) -> None:
    gate = served.on_trio(trio.Event)
    served.on_trio(lambda: setattr(served.service, "gate", gate))
    with served.stranger.stream(
        "POST", UPLOAD, content=b"0000", headers={**REQUEST, **served.bearer("acme")}
    ) as answer:
        parts = answer.iter_raw()
        assert next(parts) == b"first "
        assert served.service.closed_exchanges == 0
    deadline = time.monotonic() + 10
    while served.service.closed_exchanges == 0:
        assert time.monotonic() < deadline
        served.on_trio(lambda: None)
    assert served.service.closed_exchanges == 1


def test_every_finished_conversation_is_closed(served: Served) -> None:
    for _ in range(3):
        served.stranger.post(UPLOAD, content=b"0000", headers={**REQUEST, **served.bearer("acme")})
    assert served.service.closed_exchanges == 3
