"""upload-pack over raw requests: both protocols, what may be wanted, and what any bytes lead to."""

from __future__ import annotations

import io
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from dulwich.object_store import MemoryObjectStore
from hypothesis import given
from hypothesis import strategies as st

from gitstore import fetch_request, transport, upload
from gitstore.errors import Refused, TenantNotFound
from gitstore.parts import Parts
from tests.gitstore.git_requests import NONE, SOURCE, Objects, line, open_parts, packets, push_request

V2 = "version=2"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """Four commits on main, a side branch off the first, an annotated tag on the second, and a pinned orphan."""
    with open_parts(tmp_path_factory.mktemp("upload") / "store") as parts:
        parts.database.create_tenant("acme")
        parts.database.create_tenant("empty")
        objects = Objects()
        commits: list[str] = []
        for number in range(4):
            tree = objects.tree({"workflows.py": SOURCE, "n.txt": str(number).encode(), "lib/same.py": b"x = 1\n"})
            commits.append(objects.commit(tree, *commits[-1:], at_s=1_700_000_000 + number * 100))
        side = objects.commit(objects.tree({"side.txt": b"s"}), commits[0])
        tag = objects.tag(commits[1])
        orphan = objects.commit(objects.tree({"orphan.txt": b"o"}))
        refs = {"heads/main": commits[3], "heads/side": side, "tags/v1": tag, "heads/orphan": orphan}
        commands = [(NONE, oid, f"refs/{name}") for name, oid in refs.items()]
        list(transport.receive_pack(parts, "acme", io.BytesIO(push_request(commands, objects.pack())), who="kim"))
        parts.database.add_pin("acme", orphan, "an instance")
        gone = push_request([(orphan, NONE, "refs/heads/orphan")])
        list(transport.receive_pack(parts, "acme", io.BytesIO(gone), who="kim"))
        yield SimpleNamespace(parts=parts, commits=commits, side=side, tag=tag, orphan=orphan, objects=objects.all)


def ask(parts: Parts, body: bytes, *, protocol: str | None = None, tenant: str = "acme") -> bytes:
    return b"".join(transport.upload_pack(parts, tenant, io.BytesIO(body), protocol=protocol))


def fetch_v0(
    wants: list[str], haves: tuple[str, ...] = (), *, caps: str = "side-band-64k", rest: bytes = b"", done=True
) -> bytes:
    body = b"".join(
        line(f"want {oid}" + (f" {caps}" if number == 0 else "") + "\n") for number, oid in enumerate(wants)
    )
    body += rest + b"0000" + b"".join(line(f"have {oid}\n") for oid in haves)
    return body + (line("done\n") if done else b"0000")


def fetch_v2(*arguments: str) -> bytes:
    return line("command=fetch") + line("object-format=sha1") + b"0001" + b"".join(map(line, arguments)) + b"0000"


def ids_of_pack(pack: bytes) -> set[str]:
    found = MemoryObjectStore()
    with io.BytesIO(pack) as file:
        found.add_thin_pack(file.read, None)
    return {oid.decode() for oid in found}


def pack_in(answer: bytes) -> bytes:
    return b"".join(packet[1:] for packet in packets(answer) if packet is not None and packet[:1] == b"\1")


def test_a_clone_gets_exactly_what_the_wants_reach(store: SimpleNamespace) -> None:
    answer = ask(store.parts, fetch_v0([store.commits[1]]))
    assert answer.startswith(line("NAK\n"))
    got = ids_of_pack(pack_in(answer))
    kinds = [store.objects[oid].type_name for oid in got]
    assert (kinds.count(b"commit"), kinds.count(b"tree"), kinds.count(b"blob")) == (2, 3, 4)
    assert store.commits[2] not in got


def test_the_newest_commit_costs_only_its_own_objects(store: SimpleNamespace) -> None:
    answer = ask(
        store.parts, fetch_v0([store.commits[3]], (store.commits[2],), caps="side-band-64k multi_ack_detailed")
    )
    assert answer.startswith(line(f"ACK {store.commits[2]} common\n") + line(f"ACK {store.commits[2]}\n"))
    kinds = sorted(store.objects[oid].type_name for oid in ids_of_pack(pack_in(answer)))
    assert kinds == [b"blob", b"commit", b"tree"]


def test_both_versions_send_the_same_objects(store: SimpleNamespace) -> None:
    wants, haves = [store.commits[3], store.side], (store.commits[1],)
    first = ids_of_pack(pack_in(ask(store.parts, fetch_v0(wants, haves))))
    second = ask(
        store.parts, fetch_v2(*(f"want {w}" for w in wants), *(f"have {h}" for h in haves), "done"), protocol=V2
    )
    assert second.startswith(line("packfile\n"))
    assert ids_of_pack(pack_in(second)) == first


def test_without_sideband_the_pack_comes_bare(store: SimpleNamespace) -> None:
    answer = ask(store.parts, fetch_v0([store.commits[0]], caps="ofs-delta"))
    assert answer.startswith(line("NAK\n") + b"PACK\0\0\0\2")
    assert store.commits[0] in ids_of_pack(answer[8:])


def test_small_sideband_keeps_its_packets_small(store: SimpleNamespace) -> None:
    answer = ask(store.parts, fetch_v0([store.commits[3]], caps="side-band"))
    assert max(len(packet) + 4 for packet in packets(answer) if packet is not None) <= 1000
    assert store.commits[3] in ids_of_pack(pack_in(answer))


def test_include_tag_adds_the_tag_of_a_sent_commit(store: SimpleNamespace) -> None:
    plain = ids_of_pack(pack_in(ask(store.parts, fetch_v0([store.commits[3]]))))
    tagged = ids_of_pack(pack_in(ask(store.parts, fetch_v0([store.commits[3]], caps="side-band-64k include-tag"))))
    assert tagged - plain == {store.tag}


@pytest.mark.parametrize("caps", ["", "multi_ack", "multi_ack_detailed", "multi_ack_detailed no-done"])
def test_negotiation_answers_as_git_does(store: SimpleNamespace, caps: str) -> None:
    known, unknown = store.commits[1], "f" * 40
    answer = ask(store.parts, fetch_v0([store.commits[3]], (unknown, known), caps=caps, done=False))
    expected = {
        "": [f"ACK {known}\n"],
        "multi_ack": [f"ACK {known} continue\n", "NAK\n"],
        "multi_ack_detailed": [f"ACK {known} common\n", f"ACK {known} ready\n", "NAK\n"],
        "multi_ack_detailed no-done": [f"ACK {known} common\n", f"ACK {known} ready\n", "NAK\n", f"ACK {known}\n"],
    }[caps]
    head = b"".join(map(line, expected))
    assert answer.startswith(head)
    assert answer[len(head) :].startswith(b"PACK") == ("no-done" in caps)


def test_no_common_commit_is_a_nak(store: SimpleNamespace) -> None:
    assert ask(store.parts, fetch_v0([store.commits[3]], ("f" * 40,), done=False)) == line("NAK\n")
    v2 = ask(store.parts, fetch_v2(f"want {store.commits[3]}", f"have {'f' * 40}"), protocol=V2)
    assert v2 == line("acknowledgments\n") + line("NAK\n") + b"0000"


def test_ready_waits_until_every_want_rests_on_something_common(store: SimpleNamespace) -> None:
    """The side branch does not contain main's second commit: with that alone the client goes on with its haves."""
    wants = [f"want {store.commits[3]}", f"want {store.side}"]
    partial = ask(store.parts, fetch_v2(*wants, f"have {store.commits[1]}"), protocol=V2)
    assert partial == line("acknowledgments\n") + line(f"ACK {store.commits[1]}\n") + b"0000"
    ready = ask(store.parts, fetch_v2(*wants, f"have {store.commits[0]}"), protocol=V2)
    assert packets(ready)[:4] == [b"acknowledgments\n", f"ACK {store.commits[0]}\n".encode(), b"ready\n", None]


def test_a_shallow_request_lists_the_edge(store: SimpleNamespace) -> None:
    edge = store.commits[2]
    v0 = ask(store.parts, fetch_v0([store.commits[3]], rest=line("deepen 2\n")))
    assert packets(v0)[:3] == [f"shallow {edge}".encode(), None, b"NAK\n"]
    v2 = ask(store.parts, fetch_v2(f"want {store.commits[3]}", "deepen 2", "done"), protocol=V2)
    assert packets(v2)[:4] == [b"shallow-info\n", f"shallow {edge}".encode(), None, b"packfile\n"]
    got = ids_of_pack(pack_in(v2))
    assert {oid for oid in got if store.objects[oid].type_name == b"commit"} == set(store.commits[2:])


def test_deepening_sends_what_lies_behind_commits_the_client_has(store: SimpleNamespace) -> None:
    arguments = [
        f"want {store.commits[3]}",
        f"have {store.commits[3]}",
        f"shallow {store.commits[3]}",
        "deepen 3",
        "done",
    ]
    answer = ask(store.parts, fetch_v2(*arguments), protocol=V2)
    listed = packets(answer)
    assert listed[1:4] == [f"shallow {store.commits[1]}".encode(), f"unshallow {store.commits[3]}".encode(), None]
    got = ids_of_pack(pack_in(answer))
    assert {oid for oid in got if store.objects[oid].type_name == b"commit"} == {store.commits[1], store.commits[2]}


def test_a_shallow_client_is_not_sent_the_history_it_left_out(store: SimpleNamespace) -> None:
    edge = store.commits[2]
    answer = ask(
        store.parts, fetch_v2(f"want {store.commits[3]}", f"have {edge}", f"shallow {edge}", "done"), protocol=V2
    )
    got = ids_of_pack(pack_in(answer))
    assert {oid for oid in got if store.objects[oid].type_name == b"commit"} == {store.commits[3]}


def test_only_branches_and_tags_are_shown(store: SimpleNamespace) -> None:
    refs = {b"refs/pins/x": b"1", b"refs/heads/b": b"2", b"HEAD": b"3", b"refs/tags/t": b"4", b"refs/heads/a": b"5"}
    shown = upload.advertised_refs(refs, "main")
    assert list(shown.refs) == [b"refs/heads/a", b"refs/heads/b", b"refs/tags/t"]
    assert shown.head == b"refs/heads/main"


def test_a_body_that_ends_after_the_wants_gets_the_shallow_list_only(store: SimpleNamespace) -> None:
    body = fetch_v0([store.commits[3]], rest=line("deepen 1\n"), done=False)[:-4]
    assert packets(ask(store.parts, body)) == [f"shallow {store.commits[3]}".encode(), None]


def test_history_may_be_wanted_and_nothing_else(store: SimpleNamespace) -> None:
    assert b"PACK" in ask(store.parts, fetch_v0([store.commits[1]]))
    blob = next(oid for oid, made in store.objects.items() if made.type_name == b"blob")
    for wanted in (store.orphan, blob, "f" * 40):
        for body, protocol in ((fetch_v0([wanted]), None), (fetch_v2(f"want {wanted}", "done"), V2)):
            with pytest.raises(Refused, match=f"not our ref {wanted}") as refused:
                ask(store.parts, body, protocol=protocol)
            assert refused.value.code == "object_not_found"


def test_another_tenants_commit_is_not_found(store: SimpleNamespace) -> None:
    with pytest.raises(Refused, match="not our ref"):
        ask(store.parts, fetch_v0([store.commits[0]]), tenant="empty")
    with pytest.raises(TenantNotFound):
        ask(store.parts, fetch_v0([store.commits[0]]), tenant="nobody")


def test_refs_are_listed_by_prefix_with_symref_and_peeled(store: SimpleNamespace) -> None:
    body = (
        line("command=ls-refs")
        + b"0001"
        + b"".join(map(line, ["peel", "symrefs", "unborn", "ref-prefix HEAD", "ref-prefix refs/tags/"]))
        + b"0000"
    )
    assert packets(ask(store.parts, body, protocol=V2)) == [
        f"{store.commits[3]} HEAD symref-target:refs/heads/main\n".encode(),
        f"{store.tag} refs/tags/v1 peeled:{store.commits[1]}\n".encode(),
        None,
    ]
    assert packets(ask(store.parts, body, protocol=V2, tenant="empty")) == [
        b"unborn HEAD symref-target:refs/heads/main\n",
        None,
    ]


def test_advertisements_of_each_version(store: SimpleNamespace) -> None:
    v0 = packets(transport.advertise(store.parts, "acme", "git-upload-pack", protocol=None))
    names = [packet.split(b"\0")[0].strip() for packet in v0[2:] if packet is not None]
    assert names == [
        f"{store.commits[3]} HEAD".encode(),
        f"{store.commits[3]} refs/heads/main".encode(),
        f"{store.side} refs/heads/side".encode(),
        f"{store.tag} refs/tags/v1".encode(),
        f"{store.commits[1]} refs/tags/v1^{{}}".encode(),
    ]
    assert b"symref=HEAD:refs/heads/main" in (v0[2] or b"")
    assert (
        packets(transport.advertise(store.parts, "acme", "git-upload-pack", protocol="version=2"))[0] == b"version 2\n"
    )
    v1 = packets(transport.advertise(store.parts, "acme", "git-upload-pack", protocol="version=1"))
    assert v1[2] == b"version 1\n"
    assert transport.advertise(store.parts, "acme", "git-upload-pack", protocol="version=7:x") == transport.advertise(
        store.parts, "acme", "git-upload-pack", protocol=None
    )


def test_a_fetch_dropped_early_harms_nothing(store: SimpleNamespace) -> None:
    chunks = transport.upload_pack(store.parts, "acme", io.BytesIO(fetch_v0([store.commits[3]])))
    next(chunks)
    chunks.close()
    assert b"PACK" in ask(store.parts, fetch_v0([store.commits[3]]))


def test_an_oversized_request_is_refused(store: SimpleNamespace) -> None:
    haves = line(f"have {'f' * 40}\n") * (fetch_request.REQUEST_BYTES_MAX // 50 + 10)
    with pytest.raises(Refused) as refused:
        ask(store.parts, fetch_v0([store.commits[3]])[:-9] + haves)
    assert refused.value.code == "request_too_large"


_words = st.sampled_from(
    ["want", "have", "shallow", "deepen", "deepen-since", "deepen-relative", "done", "command=fetch", "command=ls-refs"]
)


@given(data=st.data(), protocol=st.sampled_from([None, "version=1", V2]))
def test_any_bytes_are_answered_or_refused(store: SimpleNamespace, data: st.DataObject, protocol: str | None) -> None:
    known = [*store.commits, store.tag, store.orphan, "f" * 40, "zz", "1", "0", "-1", "9" * 30]
    piece = st.one_of(
        st.binary(max_size=30),
        st.sampled_from([b"0000", b"0001", b"0002", b"0004"]),
        st.builds(line, st.binary(max_size=50)),
        st.builds(
            lambda word, oid, caps: line(f"{word} {oid}{caps}\n"),
            _words,
            st.sampled_from(known),
            st.sampled_from(["", " side-band-64k", " multi_ack_detailed no-done"]),
        ),
        st.builds(line, _words),
    )
    body = b"".join(data.draw(st.lists(piece, max_size=8)))
    try:
        answer = ask(store.parts, body, protocol=protocol)
    except Refused:
        return
    assert isinstance(answer, bytes)


@given(st.sets(st.integers(0, 3), min_size=1), st.sets(st.integers(0, 3)), st.integers(1, 6))
def test_what_is_sent_completes_what_the_client_has(
    store: SimpleNamespace, wants: set[int], haves: set[int], depth: int
) -> None:
    """The law of a fetch: known history + pack = everything that the wants reach down to the shallow edge."""
    arguments = [f"want {store.commits[w]}" for w in sorted(wants)] + [
        f"have {store.commits[h]}" for h in sorted(haves)
    ]
    answer = ask(store.parts, fetch_v2(*arguments, "done"), protocol=V2)
    got = ids_of_pack(pack_in(answer))
    reach = {oid for w in wants for oid in _closure(store, store.commits[w], 10)}
    has = {oid for h in haves for oid in _closure(store, store.commits[h], 10)}
    assert got | has >= reach
    assert not {oid for oid in got & has if store.objects[oid].type_name == b"commit"}
    shallow = ask(store.parts, fetch_v2(f"want {store.commits[max(wants)]}", f"deepen {depth}", "done"), protocol=V2)
    assert ids_of_pack(pack_in(shallow)) == _closure(store, store.commits[max(wants)], depth)


def _closure(store: SimpleNamespace, oid: str, depth: int) -> set[str]:
    """The oracle: all objects of a commit and of `depth` - 1 generations before it, by plain recursion."""
    found: set[str] = set()
    commit = store.objects[oid]
    stack = [commit.tree.decode()]
    while stack:
        name = stack.pop()
        found.add(name)
        if store.objects[name].type_name == b"tree":
            stack += [entry.sha.decode() for entry in store.objects[name].items()]
    found.add(oid)
    if depth > 1:
        for parent in commit.parents:
            found |= _closure(store, parent.decode(), depth - 1)
    return found
