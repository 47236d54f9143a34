"""Git's framing: packets in and out, lines that are safe on any terminal, packs that git reads."""

from __future__ import annotations

import io

import pytest
from dulwich.object_store import MemoryObjectStore
from dulwich.objects import Blob
from hypothesis import given
from hypothesis import strategies as st

from gitstore import pktline
from gitstore.errors import Refused
from gitstore.pktline import Mark, PacketReader


class Dribble(io.RawIOBase):
    """A stream that hands out one byte at a time, as sockets may."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def read(self, size: int = -1) -> bytes:
        return self._data.read(min(size, 1))


@given(st.lists(st.one_of(st.binary(max_size=200), st.sampled_from([Mark.FLUSH, Mark.DELIMITER])), max_size=8))
def test_packets_are_read_as_they_were_written(items: list[bytes | Mark]) -> None:
    written = b"".join(
        pktline.packet(item) if isinstance(item, bytes) else {Mark.FLUSH: b"0000", Mark.DELIMITER: b"0001"}[item]
        for item in items
    )
    reader = PacketReader(Dribble(written))
    assert [reader.read() for _ in items] == items
    assert reader.read() is Mark.END
    assert reader.bytes_read == len(written)


@given(st.binary(max_size=100))
def test_any_bytes_are_packets_or_refused(data: bytes) -> None:
    reader = PacketReader(io.BytesIO(data))
    try:
        while reader.read() is not Mark.END:
            pass
    except Refused as error:
        assert error.code == "git_protocol_error"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"00", "the request ends inside the length of a packet"),
        (b"+004", "a packet of the request has no valid length"),
        (b"0003", "a packet of the request claims 3 bytes; 4 to 65520 are allowed"),
        (b"fff1" + b"x" * 65_517, "a packet of the request claims 65521 bytes; 4 to 65520 are allowed"),
        (b"0008ab", "the request ends inside a packet (2 of 4 bytes)"),
    ],
)
def test_what_is_no_packet_is_refused_in_words(data: bytes, message: str) -> None:
    with pytest.raises(Refused) as refused:
        PacketReader(io.BytesIO(data)).read()
    assert refused.value.message == message


@given(st.text(max_size=300))
def test_lines_for_a_terminal_are_short_printable_ascii(text: str) -> None:
    lines = pktline.remote_lines(text)
    assert all(len(line) <= 72 and line.isascii() and line.isprintable() for line in lines)


def test_a_folded_line_continues_below_its_text() -> None:
    assert pktline.remote_lines("  Warning   " + "word " * 20) == [
        "  Warning   word word word word word word word word word word word word",
        "            word word word word word word word word",
    ]
    assert pktline.remote_lines("caf\u00e9 \x1b[31m") == ["cafe ?[31m"]


@given(st.lists(st.binary(max_size=300), max_size=5, unique=True))
def test_a_pack_stream_is_a_pack(contents: list[bytes]) -> None:
    pack = b"".join(pktline.pack_stream(len(contents), (("blob", content) for content in contents)))
    store = MemoryObjectStore()
    if contents:
        store.add_thin_pack(io.BytesIO(pack).read, None)
    assert {store[oid].as_raw_string() for oid in store} == set(contents)
    assert all(Blob.from_string(content).id in store for content in contents)


@given(st.integers(1, 3), st.binary(max_size=3000), st.integers(10, 1000))
def test_a_side_band_carries_every_byte_in_packets_of_bounded_size(band: int, data: bytes, size: int) -> None:
    sent = list(pktline.sideband(band, data, packet_bytes_max=size))
    assert all(len(packet) <= size and packet[4] == band for packet in sent)
    assert b"".join(packet[5:] for packet in sent) == data
