"""The pack scanner: what it reads, what it refuses, and that it refuses before the work is done."""

import time
from pathlib import Path

import pytest

from gitstore.errors import LimitExceeded, Refused
from gitstore.limits import Limits
from gitstore.scan import CHAIN_DEPTH_MAX, WINDOW_BYTES, PackScanner, PackSummary
from tests.gitstore import hostile
from tests.gitstore.hostile import BLOB, OFS_DELTA, REF_DELTA, back, copy_delta, entry, pack

LIMITS = Limits()


def scan(body: bytes, limits: Limits = LIMITS, *, step: int = 4096) -> PackSummary:
    scanner = PackScanner(limits)
    for start in range(0, len(body), step):
        assert scanner.feed(body[start : start + step]) == b""
    return scanner.finish()


def refusal(body: bytes, limits: Limits = LIMITS) -> str:
    with pytest.raises(Refused) as caught:
        scan(body, limits)
    assert caught.value.code in ("pack_malformed", "limit_exceeded")
    return caught.value.message


def test_counts_and_sizes_of_a_pack_by_git_are_read(tmp_path: Path) -> None:
    repository = hostile.Repository(tmp_path)
    text = "".join(f"line {number}\n" for number in range(500))
    first = repository.commit({"a.txt": text})
    second = repository.commit({"a.txt": text + "one more\n"})
    body = repository.pack(second, options=("--delta-base-offset", "--window=10"))
    summary = scan(body)
    assert summary.object_count == 6
    assert summary.delta_count == 1
    assert summary.pack_bytes == len(body)
    assert summary.checksum == body[-20:].hex()
    # Both files, two trees of one entry, two commits, and the delta itself.
    whole = sum(
        len(repository.git("cat-file", kind, name))
        for kind, name in [
            ("commit", first),
            ("commit", second),
            ("tree", first + "^{tree}"),
            ("tree", second + "^{tree}"),
        ]
    )
    delta_bytes = summary.inflated_bytes - whole - len(text) - len(text + "one more\n")
    assert 0 < delta_bytes < 40


@pytest.mark.parametrize("step", [1, 2, 3, 7, 19, 100_000])
def test_pieces_of_any_size_give_the_same_summary(step: int) -> None:
    base = entry(BLOB, b"abc" * 100)
    body = pack(base, entry(OFS_DELTA, copy_delta(300, 2), base=back(len(base))), entry(BLOB, b""))
    assert scan(body, step=step) == scan(body, step=len(body))
    assert scan(body, step=step).inflated_bytes == 300 + len(copy_delta(300, 2)) + 600


def test_bytes_after_the_trailer_are_handed_back() -> None:
    scanner = PackScanner(LIMITS)
    assert scanner.feed(pack(entry(BLOB, b"x")) + b"more") == b"more"
    assert scanner.finish().object_count == 1
    assert scanner.feed(b"again") == b"again"


@pytest.mark.parametrize("size", [0, 1, WINDOW_BYTES - 1, WINDOW_BYTES, WINDOW_BYTES + 1, 3 * WINDOW_BYTES])
@pytest.mark.parametrize("step", [1000, 1 << 20])
def test_objects_around_the_size_of_a_window_are_read(size: int, step: int) -> None:
    body = pack(entry(BLOB, bytes(size)), entry(BLOB, b"after"), entry(BLOB, bytes(range(256)) * (size // 256)))
    assert scan(body, step=step).inflated_bytes == size + 5 + size // 256 * 256


def test_empty_pack_is_a_pack() -> None:
    assert scan(pack()).object_count == 0


def test_one_gibibyte_zip_bomb_is_refused_at_its_header() -> None:
    body = hostile.zip_bomb(1 << 30)
    assert len(body) < 1_100_000
    scanner = PackScanner(LIMITS)
    began = time.thread_time()
    with pytest.raises(LimitExceeded) as caught:
        scanner.feed(body[:4096])
    assert time.thread_time() - began < 0.1
    assert str(caught.value) == (
        "The size in bytes of object 1 of 1 in the pack (1073741824) is over the limit of 33554432 (object_bytes_max)."
        " Remove the large file from every commit that is pushed."
    )
    assert caught.value.details == {"limit": "object_bytes_max", "bound": 33554432, "found": 1 << 30}


def test_chain_of_deltas_to_a_gibibyte_is_refused_by_the_sizes_of_results() -> None:
    body = hostile.delta_bomb(5)  # 4 KiB × 16^5 = 4 GiB
    assert len(body) < 40_000
    began = time.thread_time()
    assert refusal(body) == (
        "The size in bytes of object 5 of 6 in the pack (268435456) is over the limit of 33554432 (object_bytes_max)."
    )
    assert time.thread_time() - began < 0.1


def test_many_large_results_are_refused_by_their_sum() -> None:
    limits = Limits(inflated_bytes_max=1000)
    base = entry(BLOB, bytes(300))
    delta = entry(OFS_DELTA, copy_delta(300, 2), base=back(len(base)))
    assert refusal(pack(base, delta, entry(BLOB, bytes(100))), limits) == (
        "What the pack unfolds to, in bytes, up to object 3 of 3 (1010) is over the limit of 1000 (inflated_bytes_max)."
    )


def test_object_that_inflates_beyond_its_header_is_refused_before_it_has_inflated() -> None:
    liar = hostile.size_bytes(10, kind=BLOB) + hostile.zip_bomb(64 << 20)[17:-20]
    assert refusal(pack(liar)) == (
        "The pack is damaged: object 1 of 1: it inflates to more than the 10 bytes its header says."
    )


def test_object_shorter_than_its_header_says_is_refused() -> None:
    assert refusal(pack(entry(BLOB, b"abc", size=4))) == (
        "The pack is damaged: object 1 of 1: it inflates to 3 bytes, its header says 4."
    )


def test_announced_count_over_the_limit_is_refused_with_the_header() -> None:
    with pytest.raises(LimitExceeded) as caught:
        PackScanner(LIMITS).feed(b"PACK\0\0\0\2\xff\xff\xff\xff")
    assert caught.value.message == (
        "The number of objects in the pack (4294967295) is over the limit of 50000 (object_count_max)."
    )


def test_pack_longer_than_the_limit_is_refused_as_soon_as_it_is() -> None:
    scanner = PackScanner(Limits(pack_bytes_max=1000))
    body = pack(entry(BLOB, bytes(range(256)) * 20))
    assert len(body) < 1000
    assert scanner.feed(body) == b""
    assert scanner.finish().pack_bytes == len(body)
    scanner = PackScanner(Limits(pack_bytes_max=len(body) - 1))
    with pytest.raises(LimitExceeded, match=rf"^The size of the pack in bytes is over the limit of {len(body) - 1} "):
        scanner.feed(body)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "The pack is truncated: it ends before its header."),
        (b"PAC", "The pack is truncated: it ends before its header."),
        (b"HTTP/1.1 200", "The pack is damaged: it does not begin with a version 2 pack header."),
        (b"PACK\0\0\0\4\0\0\0\0", "The pack is damaged: it does not begin with a version 2 pack header."),
        (pack(entry(BLOB, b"x"))[:-20], "The pack is truncated: it ends before its checksum."),
        (pack(entry(BLOB, b"x"))[:-1], "The pack is truncated: it ends before its checksum."),
        (pack(entry(BLOB, b"abcdef"))[:16], "The pack is truncated: it ends in object 1 of 1."),
        (
            pack(entry(BLOB, b"x"), count=2),  # the checksum is read as an object
            "The pack is damaged: object 2 of 2: its compressed bytes cannot be read.",
        ),
        (
            pack(entry(BLOB, b"x"))[:-1] + b"\0",
            "The pack is damaged: its checksum does not match its bytes.",
        ),
        (pack(b"\x31\0not zlib"), "The pack is damaged: object 1 of 1: its compressed bytes cannot be read."),
        (pack(b"\x01" + b"\0" * 30), "The pack is damaged: object 1 of 1: type 0 does not exist."),
        (pack(b"\x51" + b"\0" * 30), "The pack is damaged: object 1 of 1: type 5 does not exist."),
        (pack(b"\xb1" + b"\xff" * 30), "The pack is damaged: object 1 of 1: its size is not a number."),
        (
            pack(b"\x61" + b"\xff" * 30),
            "The pack is damaged: object 1 of 1: its delta offset is not a number.",
        ),
        (
            pack(entry(OFS_DELTA, copy_delta(5, 1), base=back(5))),
            "The pack is damaged: object 1 of 1: its delta names a place where no earlier object begins.",
        ),
        (
            pack(entry(REF_DELTA, b"", base=bytes(20))),
            "The pack is damaged: object 1 of 1: its delta does not say how large its base and its result are.",
        ),
        (
            pack(entry(REF_DELTA, b"\x80" * 20, base=bytes(20))),
            "The pack is damaged: object 1 of 1: its delta does not say how large its base and its result are.",
        ),
    ],
)
def test_damaged_and_truncated_packs_are_refused(body: bytes, message: str) -> None:
    assert refusal(body) == message


def test_delta_that_lies_about_its_base_is_refused() -> None:
    base = entry(BLOB, b"abc")
    body = pack(base, entry(OFS_DELTA, copy_delta(4, 1), base=back(len(base))))
    assert refusal(body) == (
        "The pack is damaged: object 2 of 2: its delta is for a base of 4 bytes, the object there has 3."
    )


def test_chain_of_deltas_longer_than_git_writes_is_refused() -> None:
    entries = [entry(BLOB, b"abc")]
    delta = copy_delta(3, 1)
    for _ in range(CHAIN_DEPTH_MAX + 1):
        entries.append(entry(OFS_DELTA, delta, base=back(len(entries[-1]))))
    assert scan(pack(*entries[:-1])).delta_count == CHAIN_DEPTH_MAX
    assert refusal(pack(*entries)) == (
        "The pack is damaged: object 4097 of 4097: its chain of deltas is longer than 4095."
    )
