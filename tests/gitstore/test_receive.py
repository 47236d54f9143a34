"""receive-pack over raw requests: every answer a client can provoke, and what it leaves behind."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from dulwich.objects import ShaFile
from hypothesis import given
from hypothesis import strategies as st

from gitstore import receive, transport
from gitstore.errors import LimitExceeded, Refused, TenantNotFound, Unavailable
from gitstore.limits import Limits
from gitstore.parts import Parts
from gitstore.quarantine import Quarantine
from tests.gitstore.git_requests import (
    NONE,
    SOURCE,
    Answer,
    Objects,
    line,
    open_parts,
    packets,
    push_request,
    read_answer,
)

MAIN = "refs/heads/main"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    limits = Limits(ref_updates_max=50, push_options_max=4, ref_count_max=40)
    with open_parts(tmp_path_factory.mktemp("receive") / "store", limits) as parts:
        yield parts


_numbers = iter(range(10**6))


@pytest.fixture
def tenant(store: Parts) -> str:
    return store.database.create_tenant(f"t{next(_numbers)}").name


@pytest.fixture(scope="module")
def scratch(store: Parts) -> str:
    return store.database.create_tenant("scratch").name


def send(parts: Parts, tenant: str, body: bytes) -> bytes:
    return b"".join(transport.receive_pack(parts, tenant, io.BytesIO(body), who="kim"))


def push(parts: Parts, tenant: str, *args, **kwargs) -> Answer:
    return read_answer(send(parts, tenant, push_request(*args, **kwargs)))


def first_push(parts: Parts, tenant: str, **files: bytes) -> tuple[str, Objects]:
    objects = Objects()
    tip = objects.commit(objects.tree({"workflows.py": SOURCE, **files}))
    answer = push(parts, tenant, [(NONE, tip, MAIN)], objects.pack())
    assert answer.refs == {MAIN: "ok"}
    return tip, objects


def leftovers(parts: Parts, tenant: str) -> list[str]:
    """Everything in the repository but its packs and the files that every repository has."""
    path = parts.repository_path(tenant)
    usual = {"HEAD", "config", "objects", "refs", "objects/pack", "packed-refs"}
    found = {str(p.relative_to(path)) for p in path.rglob("*")} if path.exists() else set()
    return sorted(name for name in found - usual if not name.startswith("objects/pack/pack-"))


def pack_count(parts: Parts, tenant: str) -> int:
    return len(list((parts.repository_path(tenant) / "objects" / "pack").glob("*.pack")))


# -- what a push prints and reports ----------------------------------------------------------------------------------


def test_first_push_reports_commit_workflows_and_channel(store: Parts, tenant: str) -> None:
    objects = Objects()
    tip = objects.commit(
        objects.tree({"workflows/jobs.py": SOURCE, "workflows/billing.py": SOURCE.replace(b"Job", b"Billing")})
    )
    answer = push(store, tenant, [(NONE, tip, MAIN)], objects.pack())
    assert answer.unpack == "ok"
    assert answer.refs == {MAIN: "ok"}
    assert answer.remote == [
        f"  {tenant}  main  {tip[:8]} (new)",
        "  Workflows Billing  workflows/billing.py:4",
        "            Job      workflows/jobs.py:4",
        f"  Channel   live -> {tip[:8]}",
    ]
    assert leftovers(store, tenant) == []


def test_second_push_says_from_where_to_where(store: Parts, tenant: str) -> None:
    tip, objects = first_push(store, tenant)
    new = objects.commit(objects.tree({"workflows.py": SOURCE, "data.txt": b"x"}), tip)
    assert push(store, tenant, [(tip, new, MAIN)], objects.pack()).remote == [
        f"  {tenant}  main  {new[:8]} (was {tip[:8]})",
        "  Workflows Job  workflows.py:4",
        f"  Channel   live {tip[:8]} -> {new[:8]}",
        "  Running instances stay on the commit they are pinned to.",
    ]


def test_a_broken_source_is_refused_with_file_line_and_column(store: Parts, tenant: str) -> None:
    objects = Objects()
    tip = objects.commit(objects.tree({"workflows.py": b"x = 1\ndef f(:\n"}))
    answer = push(store, tenant, [(NONE, tip, MAIN)], objects.pack())
    assert answer.unpack == "ok"
    assert answer.refs[MAIN].startswith("workflows.py:2:7 ")
    assert answer.remote[0] == answer.refs[MAIN]
    assert answer.remote[-1] == "Nothing was changed."
    assert store.database.refs(tenant) == {}
    assert pack_count(store, tenant) == 0
    assert leftovers(store, tenant) == []


def test_another_branch_is_stored_and_not_deployed(store: Parts, tenant: str) -> None:
    objects = Objects()
    tip = objects.commit(objects.tree({"workflows.py": b"def broken(:\n"}))
    assert push(store, tenant, [(NONE, tip, "refs/heads/feature")], objects.pack()).remote == [
        f"  {tenant}  feature  {tip[:8]} (new)",
        "  Stored    not deployed: only main is. To deploy this branch:",
        "            git push origin feature:main",
        "            or push it with -o channel=NAME",
    ]
    assert store.database.channel(tenant, "live") is None


def test_lines_for_the_terminal_are_short_plain_ascii(store: Parts, tenant: str) -> None:
    objects = Objects()
    tip = objects.commit(objects.tree({"workflows.py": SOURCE}))
    hostile = "\x1b[31mred\x1b[0m " + "é" * 300
    body = push_request([(NONE, tip, MAIN)], objects.pack(), options=[hostile])
    raw = send(store, tenant, body)
    assert b"\x1b" not in raw
    answer = read_answer(raw)
    assert all(len(found) <= 72 and found.isprintable() for found in answer.remote)
    assert any("Warning   push option" in found for found in answer.remote)


def test_quiet_silences_progress_only(store: Parts, tenant: str) -> None:
    objects = Objects()
    files = {f"f{number}.txt": str(number).encode() for number in range(1000)}
    tip = objects.commit(objects.tree({"workflows.py": SOURCE, **files}))
    loud = push(store, tenant, [(NONE, tip, "refs/heads/a")], objects.pack())
    quiet = push(
        store, tenant, [(NONE, tip, "refs/heads/b")], objects.pack(), capabilities="report-status side-band-64k quiet"
    )
    assert loud.remote[0] == "  Checking 1003 objects"
    assert quiet.remote[0] == f"  {tenant}  b  {tip[:8]} (new)"


def test_without_sideband_the_report_comes_bare_and_without_report_nothing_comes(store: Parts, tenant: str) -> None:
    objects = Objects()
    tip = objects.commit(objects.tree({"workflows.py": SOURCE}))
    bare = send(store, tenant, push_request([(NONE, tip, MAIN)], objects.pack(), capabilities="report-status"))
    assert packets(bare) == [b"unpack ok\n", b"ok refs/heads/main\n", None]
    assert send(store, tenant, push_request([(NONE, tip, "refs/heads/b")], objects.pack(), capabilities="")) == b""
    assert set(store.database.refs(tenant)) == {b"refs/heads/main", b"refs/heads/b"}


# -- push options ----------------------------------------------------------------------------------------------------


def test_message_option_names_the_deployment_else_the_commit_does(store: Parts, tenant: str) -> None:
    tip, objects = first_push(store, tenant)
    assert store.database.deployment(tenant, tip).message == "m"
    new = objects.commit(objects.tree({"workflows.py": SOURCE + b"#\n"}), tip, message="subject\n\nbody")
    push(store, tenant, [(tip, new, MAIN)], objects.pack(), options=["message=release 2"])
    assert store.database.deployment(tenant, new).message == "release 2"


def test_no_deploy_stores_and_moves_no_channel(store: Parts, tenant: str) -> None:
    tip, objects = first_push(store, tenant)
    new = objects.commit(objects.tree({"workflows.py": SOURCE + b"#\n"}), tip)
    answer = push(store, tenant, [(tip, new, MAIN)], objects.pack(), options=["no-deploy"])
    assert answer.remote == [
        f"  {tenant}  main  {new[:8]} (was {tip[:8]})",
        "  Stored    not deployed, as asked (-o no-deploy)",
    ]
    channel = store.database.channel(tenant, "live")
    assert channel is not None
    assert channel.commit == tip


def test_channel_option_deploys_any_branch_to_that_channel(store: Parts, tenant: str) -> None:
    tip, objects = first_push(store, tenant)
    new = objects.commit(objects.tree({"workflows.py": SOURCE + b"#\n"}), tip)
    answer = push(store, tenant, [(NONE, new, "refs/heads/f")], objects.pack(), options=["channel=staging"])
    assert f"  Channel   staging -> {new[:8]}" in answer.remote
    live, staging = store.database.channel(tenant, "live"), store.database.channel(tenant, "staging")
    assert live is not None
    assert staging is not None
    assert (live.commit, staging.commit) == (tip, new)


def test_channel_option_with_two_branches_deploys_neither_and_says_so(store: Parts, tenant: str) -> None:
    objects = Objects()
    tip = objects.commit(objects.tree({"workflows.py": SOURCE}))
    commands = [(NONE, tip, "refs/heads/a"), (NONE, tip, "refs/heads/b")]
    answer = push(store, tenant, commands, objects.pack(), options=["channel=staging"])
    assert answer.refs == {"refs/heads/a": "ok", "refs/heads/b": "ok"}
    assert "push option 'channel' needs a push of one branch" in "\n".join(answer.remote)
    assert store.database.channel(tenant, "staging") is None


def test_a_bad_channel_name_refuses_the_push(store: Parts, tenant: str) -> None:
    objects = Objects()
    tip = objects.commit(objects.tree({"workflows.py": SOURCE}))
    answer = push(store, tenant, [(NONE, tip, MAIN)], objects.pack(), options=["channel=../x"])
    assert answer.refs == {MAIN: "'../x' is no channel name."}
    assert store.database.refs(tenant) == {}


def test_pin_option_pins_the_commit(store: Parts, tenant: str) -> None:
    objects = Objects()
    tip = objects.commit(objects.tree({"workflows.py": SOURCE}))
    answer = push(store, tenant, [(NONE, tip, MAIN)], objects.pack(), options=["pin"])
    assert "  Pinned    kept until it is unpinned, whatever happens to the branch" in answer.remote
    assert [pin.commit for pin in store.database.pins(tenant)] == [tip]


def test_unknown_option_is_a_warning(store: Parts, tenant: str) -> None:
    objects = Objects()
    tip = objects.commit(objects.tree({"workflows.py": SOURCE}))
    answer = push(store, tenant, [(NONE, tip, MAIN)], objects.pack(), options=["ci.skip"])
    assert answer.refs == {MAIN: "ok"}
    assert "Warning   push option 'ci.skip' is unknown" in "\n".join(answer.remote)


# -- refs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ref", "reason"),
    [
        ("refs/pins/x", "only refs/heads/* and refs/tags/* can be pushed"),
        ("refs/for/main", "only refs/heads/* and refs/tags/* can be pushed"),
        ("HEAD", "only refs/heads/* and refs/tags/* can be pushed"),
        ("refs/heads/../../x", "malformed ref name"),
        ("refs/heads/a.lock", "malformed ref name"),
        ("refs/heads/a b", "malformed ref name"),
        ("refs/heads/-x", "ref name begins with a dash"),
        ("refs/heads/" + "x" * 300, "ref name longer than 255 bytes"),
    ],
)
def test_only_well_formed_branches_and_tags_can_be_written(store: Parts, tenant: str, ref: str, reason: str) -> None:
    objects = Objects()
    tip = objects.commit(objects.tree({"workflows.py": SOURCE}))
    raw = send(store, tenant, push_request([(NONE, tip, ref)], objects.pack()))
    assert f"ng {ref} {reason}\n".encode() in raw
    assert store.database.refs(tenant) == {}
    assert pack_count(store, tenant) == 0


def test_the_default_branch_cannot_be_deleted(store: Parts, tenant: str) -> None:
    tip, _ = first_push(store, tenant)
    answer = push(store, tenant, [(tip, NONE, MAIN)])
    assert answer.refs == {MAIN: "main is the default branch and cannot be deleted"}
    assert answer.remote == [
        "main: main is the default branch and cannot be deleted",
        "Correct this and push again.",
        "Nothing was changed.",
    ]


def test_a_branch_can_be_deleted_once(store: Parts, tenant: str) -> None:
    tip, objects = first_push(store, tenant)
    push(store, tenant, [(NONE, tip, "refs/heads/b")], objects.pack())
    answer = push(store, tenant, [(tip, NONE, "refs/heads/b")])
    assert answer.remote == [f"  {tenant}  b  deleted (was {tip[:8]})"]
    assert push(store, tenant, [(tip, NONE, "refs/heads/b")]).refs == {"refs/heads/b": "there is no such branch"}


def test_a_stale_push_is_never_told_ok(store: Parts, tenant: str) -> None:
    tip, objects = first_push(store, tenant)
    winner = objects.commit(objects.tree({"workflows.py": SOURCE + b"# 1\n"}), tip)
    loser = objects.commit(objects.tree({"workflows.py": SOURCE + b"# 2\n"}), tip)
    push(store, tenant, [(tip, winner, MAIN)], objects.pack())
    before = pack_count(store, tenant)
    answer = push(store, tenant, [(tip, loser, MAIN)], objects.pack())
    assert answer.refs == {MAIN: f"stale: the branch moved to {winner[:8]}; fetch first"}
    assert answer.remote == [
        f"main: stale: the branch moved to {winner[:8]}; fetch first",
        "Fetch, merge or rebase, and push again.",
        "Nothing was changed.",
    ]
    assert store.database.refs(tenant)[MAIN.encode()] == winner.encode()
    assert pack_count(store, tenant) == before, "a loser's objects are not kept"


def test_creating_what_exists_and_moving_what_is_gone_are_stale(store: Parts, tenant: str) -> None:
    tip, objects = first_push(store, tenant)
    assert push(store, tenant, [(NONE, tip, MAIN)], objects.pack()).refs == {
        MAIN: f"stale: the branch exists already at {tip[:8]}; fetch first"
    }
    assert push(store, tenant, [(tip, tip, "refs/heads/gone")], objects.pack()).refs == {
        "refs/heads/gone": "stale: the branch was deleted; fetch first"
    }


def test_atomic_moves_all_or_nothing(store: Parts, tenant: str) -> None:
    tip, objects = first_push(store, tenant)
    commands = [(NONE, tip, "refs/heads/a"), (tip[::-1], tip, MAIN)]
    answer = push(store, tenant, commands, objects.pack(), capabilities="report-status side-band-64k atomic")
    assert answer.refs == {
        "refs/heads/a": "another ref of this atomic push was refused",
        MAIN: f"stale: the branch moved to {tip[:8]}; fetch first",
    }
    assert set(store.database.refs(tenant)) == {b"refs/heads/main"}
    answer = push(store, tenant, commands, objects.pack())
    assert answer.refs["refs/heads/a"] == "ok", "without atomic each ref stands for itself"


def test_names_that_cannot_be_files_together_are_refused(store: Parts, tenant: str) -> None:
    tip, objects = first_push(store, tenant)
    pack = objects.pack()
    answer = push(
        store,
        tenant,
        [(NONE, tip, "refs/heads/main/sub"), (NONE, tip, "refs/heads/a/b"), (NONE, tip, "refs/heads/a")],
        pack,
    )
    assert answer.refs == {
        "refs/heads/main/sub": "the name clashes with main",
        "refs/heads/a/b": "ok",
        "refs/heads/a": "the name clashes with a/b",
    }
    swap = [(tip, NONE, "refs/heads/a/b"), (NONE, tip, "refs/heads/a")]
    assert set(push(store, tenant, swap, pack).refs.values()) == {"ok"}, "a deleted name is free at once"


def test_a_ref_named_twice_is_refused_both_times(store: Parts, tenant: str) -> None:
    objects = Objects()
    tip = objects.commit(objects.tree({"a": b"1"}))
    other = objects.commit(objects.tree({"a": b"2"}))
    commands = [(NONE, tip, "refs/heads/a"), (NONE, other, "refs/heads/a")]
    assert push(store, tenant, commands, objects.pack()).refs == {"refs/heads/a": "named twice in one push"}
    assert store.database.refs(tenant) == {}


def test_the_number_of_refs_is_bounded(store: Parts, tenant: str) -> None:
    tip, objects = first_push(store, tenant)
    commands = [(NONE, tip, f"refs/tags/t{number}") for number in range(45)]
    answer = push(store, tenant, commands, objects.pack())
    assert sum(status == "ok" for status in answer.refs.values()) == 39
    assert answer.refs["refs/tags/t44"] == "the repository has 40 refs, the limit is 40"


def test_a_branch_names_a_commit(store: Parts, tenant: str) -> None:
    objects = Objects()
    tree = objects.tree({"a": b"1"})
    tag = objects.tag(objects.commit(tree))
    for oid in (tree, tag):
        answer = push(store, tenant, [(NONE, oid, "refs/heads/b")], objects.pack())
        assert answer.refs["refs/heads/b"] != "ok"
    assert push(store, tenant, [(NONE, tag, "refs/tags/v1")], objects.pack()).refs == {"refs/tags/v1": "ok"}


def test_an_id_is_no_permission(store: Parts, tenant: str) -> None:
    """Pushing an empty pack that names another tenant's commit would hand over its source."""
    tip, _ = first_push(store, tenant)
    stranger = store.database.create_tenant(f"t{next(_numbers)}").name
    answer = push(store, stranger, [(NONE, tip, MAIN)], Objects().pack())
    assert answer.refs[MAIN] != "ok"
    assert store.database.refs(stranger) == {}


# -- packs and bodies ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["truncated", "flipped", "nothing", "trailer", "garbage"])
def test_a_damaged_pack_changes_nothing(store: Parts, tenant: str, damage: str) -> None:
    objects = Objects()
    tip = objects.commit(objects.tree({"workflows.py": SOURCE, "big.bin": bytes(range(256)) * 200}))
    pack = objects.pack()
    broken = {
        "truncated": pack[: len(pack) // 2],
        "flipped": pack[:60] + bytes([pack[60] ^ 0xFF]) + pack[61:],
        "nothing": b"",
        "trailer": pack[:-1] + bytes([pack[-1] ^ 1]),
        "garbage": b"PACK" + b"\xff" * 100,
    }[damage]
    answer = push(store, tenant, [(NONE, tip, MAIN)], broken)
    assert answer.unpack != "ok"
    assert answer.refs == {MAIN: answer.unpack}
    assert answer.remote[-1] == "Nothing was changed."
    assert store.database.refs(tenant) == {}
    assert leftovers(store, tenant) == []


def test_a_pack_without_what_its_commit_needs_is_refused(store: Parts, tenant: str) -> None:
    objects = Objects()
    tip = objects.commit(objects.tree({"workflows.py": SOURCE}))
    for oid in list(objects.all):
        rest = Objects({other: made for other, made in objects.all.items() if other != oid})
        answer = push(store, tenant, [(NONE, tip, MAIN)], rest.pack())
        assert answer.refs[MAIN] != "ok"
    assert store.database.refs(tenant) == {}


@pytest.mark.parametrize(("mode", "name"), [(b"100644", b""), (b"40755", b"sub"), (b"040000", b"sub")])
def test_trees_that_no_git_client_can_send_are_refused(store: Parts, tenant: str, mode: bytes, name: bytes) -> None:
    objects = Objects()
    inner = objects.tree({"a": b"1"})
    raw = mode + b" " + name + b"\0" + bytes.fromhex(inner)
    tip = objects.commit(objects.add(ShaFile.from_raw_string(2, raw)))
    answer = push(store, tenant, [(NONE, tip, "refs/heads/b")], objects.pack())
    assert answer.refs["refs/heads/b"] == answer.unpack != "ok"
    assert store.database.refs(tenant) == {}
    assert leftovers(store, tenant) == []


def test_the_probe_of_a_connection_is_answered_with_nothing(store: Parts, tenant: str) -> None:
    assert send(store, tenant, b"0000") == b""
    assert send(store, tenant, b"") == b""


def test_shallow_lines_are_read_and_change_nothing(store: Parts, tenant: str) -> None:
    tip, objects = first_push(store, tenant)
    new = objects.commit(objects.tree({"workflows.py": SOURCE, "a": b"1"}), tip)
    thin = Objects({oid: made for oid, made in objects.all.items() if oid != tip})
    assert push(store, tenant, [(tip, new, MAIN)], thin.pack(), shallow=[tip]).refs == {MAIN: "ok"}


@pytest.mark.parametrize(
    "body",
    [
        line("hello"),
        line(f"{NONE} {NONE[:-1]} refs/heads/x\0"),
        line(f"{NONE} {'a' * 40} refs/heads/x\0report-status"),  # no flush
        line("push-cert\0report-status") + b"0000",
        b"0003",
        b"zzzz",
        b"00",
        b"ffff" + b"x" * 70_000,
        b"0010abc",
        line(f"{NONE} {'a' * 40} refs/heads/x\0object-format=sha256") + b"0000",
    ],
)
def test_what_is_no_push_is_refused_before_anything_is_answered(store: Parts, tenant: str, body: bytes) -> None:
    with pytest.raises(Refused) as refused:
        transport.receive_pack(store, tenant, io.BytesIO(body), who="kim")
    assert refused.value.code == "git_protocol_error"


def test_the_numbers_of_commands_and_options_are_bounded(store: Parts, tenant: str) -> None:
    many = push_request([(NONE, "a" * 40, f"refs/heads/b{number}") for number in range(51)])
    with pytest.raises(LimitExceeded, match="ref_updates_max"):
        transport.receive_pack(store, tenant, io.BytesIO(many), who="kim")
    chatty = push_request([(NONE, "a" * 40, MAIN)], options=["pin"] * 5)
    with pytest.raises(LimitExceeded, match="push_options_max"):
        transport.receive_pack(store, tenant, io.BytesIO(chatty), who="kim")


def test_an_unknown_tenant_is_not_found(store: Parts) -> None:
    with pytest.raises(TenantNotFound):
        transport.receive_pack(store, "nobody", io.BytesIO(b"0000"), who="kim")


def test_an_answer_dropped_early_leaves_nothing(store: Parts, tenant: str) -> None:
    objects = Objects()
    files = {f"f{number}.txt": str(number).encode() for number in range(1000)}
    tip = objects.commit(objects.tree({"workflows.py": SOURCE, **files}))
    chunks = transport.receive_pack(
        store, tenant, io.BytesIO(push_request([(NONE, tip, MAIN)], objects.pack())), who="k"
    )
    assert b"Checking" in next(chunks)
    assert leftovers(store, tenant) != []
    chunks.close()
    assert leftovers(store, tenant) == []
    assert store.database.refs(tenant) == {}


class Vanishing(io.RawIOBase):
    """A client that is gone after some bytes: reading raises, as a server's stream does."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def read(self, size: int = -1) -> bytes:
        chunk = self._data.read(size)
        if not chunk:
            raise ConnectionResetError("the client is gone")
        return chunk


def test_a_vanished_client_leaves_nothing_and_its_error_comes_through(
    store: Parts, tenant: str, caplog: pytest.LogCaptureFixture
) -> None:
    objects = Objects()
    tip = objects.commit(objects.tree({"workflows.py": SOURCE}))
    body = push_request([(NONE, tip, MAIN)], objects.pack())[:-30]
    chunks = transport.receive_pack(store, tenant, Vanishing(body), who="kim")  # type: ignore[arg-type]
    with pytest.raises(ConnectionResetError, match="the client is gone"):
        list(chunks)
    assert leftovers(store, tenant) == []
    assert caplog.text == "", "nothing is wrong with the server"


def test_a_refused_push_reads_the_rest_of_the_body(store: Parts, tenant: str) -> None:
    """A client that is still sending would see a reset connection instead of the reason."""
    body = io.BytesIO(push_request([(NONE, "a" * 40, MAIN)], b"no pack" + b"x" * 100_000))
    list(transport.receive_pack(store, tenant, body, who="kim"))
    assert body.read() == b""


def test_a_defect_is_told_as_a_refusal_and_logged(
    store: Parts, tenant: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    objects = Objects()
    tip = objects.commit(objects.tree({"workflows.py": SOURCE}))

    def fail(*_: object) -> None:
        raise RuntimeError("secret of the server")

    monkeypatch.setattr(Quarantine, "check", fail)
    answer = push(store, tenant, [(NONE, tip, MAIN)], objects.pack())
    assert answer.refs == {MAIN: "The server failed while it took in this push."}
    assert "secret" not in "\n".join(answer.remote)
    assert "secret of the server" in caplog.text
    assert leftovers(store, tenant) == []


def test_an_unavailable_store_is_told_as_such(store: Parts, tenant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = Objects()
    tip = objects.commit(objects.tree({"workflows.py": SOURCE}))

    def full(*_: object) -> None:
        raise Unavailable("The disk is full.", hint="Try later.")

    monkeypatch.setattr(Quarantine, "publish", full)
    answer = push(store, tenant, [(NONE, tip, MAIN)], objects.pack())
    assert answer.refs == {MAIN: "The disk is full."}
    assert answer.remote == ["The disk is full.", "Try later.", "Nothing was changed."]


# -- anything at all -------------------------------------------------------------------------------------------------

_pieces = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([b"0000", b"0001", b"0002", b"0004", b"PACK\0\0\0\2\0\0\0\0"]),
    st.builds(line, st.binary(max_size=60)),
    st.builds(
        lambda old, new, ref, words: line(f"{old} {new} {ref}\0{words}"),
        st.sampled_from([NONE, "a" * 40]),
        st.sampled_from([NONE, "b" * 40]),
        st.sampled_from([MAIN, "refs/tags/v", "refs/pins/x", "x", "refs/heads/\x1b"]),
        st.sampled_from(["report-status", "report-status side-band-64k push-options atomic", ""]),
    ),
)


@given(st.lists(_pieces, max_size=6).map(b"".join))
def test_any_bytes_are_answered_or_refused(store: Parts, scratch: str, body: bytes) -> None:
    try:
        answer = send(store, scratch, body)
    except Refused:
        return
    if answer:
        packets(answer)
    assert store.database.refs(scratch) == {}
    assert leftovers(store, scratch) == []


def test_advertisement_hides_pins_and_lists_capabilities(store: Parts, tenant: str) -> None:
    empty = transport.advertise(store, tenant, "git-receive-pack", protocol=None)
    assert packets(empty)[2] == NONE.encode() + b" capabilities^{}\0" + receive._CAPABILITIES + b"\n"
    tip, _ = first_push(store, tenant)
    store.database.add_pin(tenant, tip, "x")
    one = packets(transport.advertise(store, tenant, "git-receive-pack", protocol="version=1"))
    assert one == [
        b"# service=git-receive-pack\n",
        None,
        b"version 1\n",
        tip.encode() + b" refs/heads/main\0" + receive._CAPABILITIES + b"\n",
        None,
    ]
    for word in (b"report-status", b"side-band-64k", b"atomic", b"delete-refs", b"quiet", b"push-options"):
        assert word in receive._CAPABILITIES.split()


def test_an_unknown_service_is_refused(store: Parts, tenant: str) -> None:
    with pytest.raises(Refused) as refused:
        transport.advertise(store, tenant, "git-upload-archive", protocol=None)  # type: ignore[arg-type]
    assert refused.value.code == "unknown_service"


def test_nothing_is_kept_of_a_push_whose_store_path_is_new(tmp_path: Path) -> None:
    with open_parts(tmp_path / "fresh") as parts:
        parts.database.create_tenant("acme")
        push(parts, "acme", [(NONE, "a" * 40, MAIN)], Objects().pack())
        assert parts.database.refs("acme") == {}
