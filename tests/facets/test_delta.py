"""Deltas: what they say, what they refuse. The laws over random images are in properties/test_facet_deltas.py."""

import random
import zlib

import pytest

from facets import delta
from facets.delta import Change, Header, Stamp
from facets.errors import Corrupt, FacetError, Refused

MAX = 64 * 1024
OLD = bytes(range(256)) * 12  # three blocks
NEW = OLD[:1500] + b"changed" + OLD[1507:] + b"grown" * 100


def test_a_delta_leads_forwards_and_backwards() -> None:
    change = delta.between(OLD, NEW)
    assert delta.apply(OLD, change, bytes_max=MAX) == NEW
    assert delta.apply_backwards(NEW, change, bytes_max=MAX) == OLD


def test_the_header_says_sizes_stamps_and_blocks() -> None:
    change = delta.between(OLD, NEW)
    header = delta.read_header(change, bytes_max=MAX)
    assert isinstance(header, Header)
    assert (header.before, header.after) == (delta.stamp_of(OLD), delta.stamp_of(NEW))
    assert (header.before.size, header.after.size, header.block_count) == (3072, 3572, 2)
    assert delta.check(change, bytes_max=MAX) == header


def test_the_format_is_what_the_header_draws() -> None:
    """Stored deltas are read by later versions: these bytes may never change their meaning."""
    change = delta.between(b"", b"a" + bytes(1023))
    checksum = zlib.crc32(b"a" + bytes(1023)) - zlib.crc32(bytes(1024)) + 1024 * 0x9E3779B1
    stamp = (checksum % 4_294_967_291).to_bytes(4, "little")
    head = b"\xd1\x01" + b"\x00" + b"\x80\x08" + bytes(4) + stamp + b"\x01" + b"\x81\x08"
    assert change[: len(head)] == head
    assert zlib.decompress(change[len(head) :], -15) == b"\x00" + b"a" + bytes(1023)


def test_a_change_that_does_not_shrink_is_stored_as_it_is() -> None:
    image = random.Random(1).randbytes(2048)
    change = delta.between(b"", image)
    header = delta.read_header(change, bytes_max=MAX)
    assert header is not None
    assert not header.is_deflated
    assert len(change) == 2048 + 18
    assert delta.apply(b"", change, bytes_max=MAX) == image


def test_no_change_is_no_bytes() -> None:
    assert delta.between(OLD, OLD) == b""
    assert delta.apply(OLD, b"", bytes_max=MAX) is OLD
    assert delta.apply_all(OLD, [b"", b""], bytes_max=MAX) is OLD
    assert delta.invert(b"", bytes_max=MAX) == b""
    assert delta.compose([b"", b""], bytes_max=MAX) == b""
    assert delta.check(b"", bytes_max=MAX) is None


def test_growing_by_zeros_only_is_a_change() -> None:
    change = delta.between(OLD, OLD + bytes(2048))
    assert delta.apply(OLD, change, bytes_max=MAX) == OLD + bytes(2048)
    assert delta.apply_backwards(OLD + bytes(2048), change, bytes_max=MAX) == OLD


def test_an_image_may_vanish_and_come_back() -> None:
    change = delta.between(OLD, b"")
    assert delta.apply(OLD, change, bytes_max=MAX) == b""
    assert delta.apply_backwards(b"", change, bytes_max=MAX) == OLD


def test_composed_deltas_do_what_the_two_did() -> None:
    middle, end = NEW, NEW[:700]
    both = delta.compose([delta.between(OLD, middle), b"", delta.between(middle, end)], bytes_max=MAX)
    assert both == delta.between(OLD, end)
    undone = [delta.between(OLD, NEW), delta.between(NEW, OLD)]
    assert delta.compose(undone, bytes_max=MAX) == b""


def test_a_stamp_advances_like_the_image() -> None:
    changes = [Change(1, OLD[1024:2048], bytes(1024)), Change(5, bytes(1024), b"x" * 1024)]
    whole = OLD[:1024] + bytes(1024) + OLD[2048:] + bytes(2048) + b"x" * 1024
    assert delta.advance(delta.stamp_of(OLD), len(whole), changes) == delta.stamp_of(whole)


def test_the_checksum_sees_exchanged_blocks() -> None:
    """A sum without weights would not, and blocks 2**k apart are where weights modulo a power of two are weak."""
    first, second = b"a" * 1024, b"b" * 1024
    for distance in (1, 2, 16, 4096):
        gap = bytes(1024 * (distance - 1))
        assert delta.stamp_of(first + gap + second) != delta.stamp_of(second + gap + first)


# --- the wrong base


def test_a_delta_on_another_image_is_found() -> None:
    other = bytes([OLD[0] ^ 1]) + OLD[1:]  # differs in a block that the delta does not touch
    with pytest.raises(Corrupt) as caught:
        delta.apply(other, delta.between(OLD, NEW), bytes_max=MAX)
    assert caught.value.code == "facet_delta_mismatch"
    before, found = delta.stamp_of(OLD), delta.stamp_of(other)
    assert caught.value.message == (
        f"A facet's delta was made on another image: of 3072 bytes, checksum {before.checksum:08x}; "
        f"this one has 3072 bytes, checksum {found.checksum:08x}."
    )
    assert caught.value.hint == "A delta was skipped, doubled or put in the wrong order."


def test_a_delta_on_an_image_of_another_size_is_found_without_reading_it() -> None:
    with pytest.raises(Corrupt) as caught:
        delta.apply(OLD + b"x", delta.between(OLD, NEW), bytes_max=MAX)
    assert caught.value.details == {"expected_size": 3072, "size": 3073}
    assert caught.value.message.endswith("this one has 3073 bytes.")


def test_a_doubled_skipped_or_swapped_delta_is_found() -> None:
    first, second = delta.between(OLD, NEW), delta.between(NEW, NEW[::-1])
    for order in ([first, first], [second], [second, first]):
        with pytest.raises(Corrupt) as caught:
            delta.apply_all(OLD, order, bytes_max=MAX)
        assert caught.value.code == "facet_delta_mismatch"
    with pytest.raises(Corrupt):
        delta.compose([first, first], bytes_max=MAX)


# --- hostile bytes


def assemble(
    *,
    magic: int = 0xD1,
    flags: int = 0,
    before: Stamp = Stamp(0, 0),
    after: Stamp = Stamp(1024, 0),
    blocks: int = 1,
    body: bytes = b"\0" + b"x" * 1024,
    body_bytes: int | None = None,
) -> bytes:
    return b"".join(
        (
            bytes((magic, flags)),
            delta._varint(before.size),
            delta._varint(after.size),
            before.checksum.to_bytes(4, "little"),
            after.checksum.to_bytes(4, "little"),
            delta._varint(blocks),
            delta._varint(len(body) if body_bytes is None else body_bytes),
            body,
        )
    )


def deflated(body: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(body) + packer.flush()


@pytest.mark.parametrize(
    ("hostile", "reason"),
    [
        (b"\x00", "it begins with 0x00, not 0xd1"),
        (b"\xd1", "its flags are missing or unknown"),
        (b"\xd1\x02", "its flags are missing or unknown"),
        (b"\xd1\x00", "it ends inside a number"),
        (b"\xd1\x00\x80", "it ends inside a number"),
        (b"\xd1\x00\x80\x00", "a number is not in its shortest form"),
        (b"\xd1\x00" + b"\xff" * 9, "a number is not in its shortest form"),
        (b"\xd1\x00\x00\x00\x00\x00\x00", "it ends inside its header"),
        (assemble(blocks=0), "it names 0 blocks of an image that has 1"),
        (assemble(blocks=2), "it names 2 blocks of an image that has 1"),
        (assemble(body_bytes=1024), "a body of 1024 bytes cannot hold 1 blocks"),
        (assemble(body_bytes=99999), "a body of 99999 bytes cannot hold 1 blocks"),
        (assemble(body=b"\x01" + bytes(1024)), "it names block 1 of an image that has 1"),
        (assemble(body=b"\0" + bytes(1025)), "its body has no room for 1 blocks"),
        (assemble(body=b"\0" + bytes(1024), body_bytes=1026), "its body has 1025 bytes, not 1026"),
        (assemble(flags=1, body=b"\xff" * 9, body_bytes=1025), "its body cannot be inflated"),
        (assemble(flags=1, body=deflated(bytes(1025))[:-1], body_bytes=1025), "its body does not end where it should"),
        (
            assemble(flags=1, body=deflated(bytes(1025)) + b"x", body_bytes=1025),
            "its body does not end where it should",
        ),
        (assemble(flags=1, body=deflated(bytes(1024)), body_bytes=1025), "its body has 1024 bytes, not 1025"),
        (assemble(), "its changes do not lead to the image that it promises"),
    ],
)
def test_bytes_that_are_no_delta_are_corrupt(hostile: bytes, reason: str) -> None:
    with pytest.raises(Corrupt) as caught:
        delta.apply(b"", hostile, bytes_max=MAX)
    assert caught.value.code == "facet_delta_corrupt"
    assert caught.value.message == f"A facet's delta is damaged: {reason}."
    assert caught.value.hint == "The record that carries it cannot be used; the images before it are intact."


def test_bytes_hidden_beyond_the_end_of_the_image_are_corrupt() -> None:
    """They would be invisible in the image, and come back when it grows."""
    content = bytes(512) + b"x" * 512
    after = delta.advance(delta.EMPTY, 512, [Change(0, bytes(1024), content)])
    forged = assemble(after=after, body=b"\0" + content)
    with pytest.raises(Corrupt) as caught:
        delta.apply(b"", forged, bytes_max=MAX)
    assert caught.value.message == "A facet's delta is damaged: it leaves bytes beyond the end of the image."


def test_a_bomb_inflates_no_further_than_it_declares() -> None:
    bomb = assemble(flags=1, body=deflated(bytes(50_000_000)), body_bytes=1025)
    with pytest.raises(Corrupt) as caught:
        delta.check(bomb, bytes_max=MAX)
    assert caught.value.message == "A facet's delta is damaged: its body does not end where it should."


def test_an_image_over_the_limit_is_refused_before_it_is_made() -> None:
    huge = assemble(after=Stamp(2**34, 0))
    for attempt in (delta.check, delta.invert, delta.read_header):
        with pytest.raises(Refused) as caught:
            attempt(huge, bytes_max=MAX)
        assert caught.value.code == "facet_too_large"
        assert str(caught.value) == (
            "A facet of 17179869184 bytes is over the limit of 65536 bytes. "
            "Delete rows, or keep large values outside the facet."
        )


def test_a_flipped_bit_anywhere_is_found() -> None:
    change = delta.between(OLD, NEW)
    for place in range(len(change)):
        for bit in (1, 16, 128):
            damaged = bytearray(change)
            damaged[place] ^= bit
            try:
                result = delta.apply(OLD, bytes(damaged), bytes_max=MAX)
            except FacetError:
                continue
            assert result == NEW  # deflate has bits that mean nothing: the same image is a right answer
