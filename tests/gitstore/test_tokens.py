"""Tokens: hashed at rest, read or write, expiring, revocable, of one tenant."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gitstore import GitStore, LimitExceeded, NotFound, Refused, TenantNotFound
from tests.gitstore.stores import NOW_MS, Clock, open_store


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[GitStore]:
    with open_store(tmp_path / "git", clock=clock) as store:
        store.create_tenant("acme")
        store.create_tenant("other")
        yield store


def test_the_secret_opens_the_tenant_it_was_made_for(store: GitStore) -> None:
    token = store.create_token("acme", access="read", label="laptop")
    found = store.verify_token(token.secret)
    assert found is not None
    assert (found.tenant, found.access, found.label, found.id) == ("acme", "read", "laptop", token.id)
    assert found.created_at_ms == NOW_MS
    assert token.secret.startswith("pdt_")
    assert len(token.secret) == 47


def test_no_secret_is_on_disk_or_in_a_repr(store: GitStore) -> None:
    token = store.create_token("acme")
    store.close()
    on_disk = b"".join(path.read_bytes() for path in store.root.rglob("*") if path.is_file())
    assert b"acme" in on_disk
    assert token.secret.encode() not in on_disk
    assert token.secret not in repr(token)


def test_two_tokens_never_share_a_secret(store: GitStore) -> None:
    assert len({store.create_token("acme").secret for _ in range(20)}) == 20


@pytest.mark.parametrize("secret", ["", "pdt_", "pdt_wrong", "x", "pdt_" + "a" * 10_000, "pdt_ä", "pdt_\ud800"])
def test_an_unknown_secret_opens_nothing(store: GitStore, secret: str) -> None:
    store.create_token("acme")
    assert store.verify_token(secret) is None


def test_a_token_ends_at_its_expiry_to_the_millisecond(store: GitStore, clock: Clock) -> None:
    token = store.create_token("acme", expires_at_ms=NOW_MS + 1000)
    clock.now_ms = NOW_MS + 999
    assert store.verify_token(token.secret) is not None
    clock.now_ms = NOW_MS + 1000
    assert store.verify_token(token.secret) is None


def test_a_revoked_token_opens_nothing_and_stays_listed(store: GitStore, clock: Clock) -> None:
    token, kept = store.create_token("acme"), store.create_token("acme")
    clock.now_ms += 5
    store.revoke_token("acme", token.id)
    clock.now_ms += 5
    store.revoke_token("acme", token.id)  # again: nothing changes
    assert store.verify_token(token.secret) is None
    assert store.verify_token(kept.secret) is not None
    assert [(row.id, row.revoked_at_ms) for row in store.tokens("acme")] == [(token.id, NOW_MS + 5), (kept.id, None)]


def test_another_tenants_token_is_not_found(store: GitStore) -> None:
    token = store.create_token("acme")
    with pytest.raises(NotFound, match=rf"Tenant 'other' has no token {token.id}\.") as caught:
        store.revoke_token("other", token.id)
    assert caught.value.code == "token_not_found"
    assert store.verify_token(token.secret) is not None


def test_tokens_go_with_their_tenant_even_if_the_name_comes_back(store: GitStore) -> None:
    token = store.create_token("acme")
    store.delete_tenant("acme")
    store.create_tenant("acme")
    assert store.verify_token(token.secret) is None
    assert store.tokens("acme") == []


def test_bad_arguments_are_refused(store: GitStore) -> None:
    with pytest.raises(TenantNotFound):
        store.create_token("nobody")
    with pytest.raises(TenantNotFound):
        store.tokens("nobody")
    with pytest.raises(LimitExceeded, match=r"The label \(257\) is over the limit of 256 \(label_bytes_max\)\."):
        store.create_token("acme", label="x" * 257)
    with pytest.raises(Refused, match="A token's access is 'read' or 'write', not 'admin'") as caught:
        store.create_token("acme", access="admin")  # type: ignore[arg-type]  # as over HTTP
    assert caught.value.code == "invalid_access"
