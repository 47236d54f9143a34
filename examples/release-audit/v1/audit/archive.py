"""A source distribution in memory: a .tar.gz as bytes in, its files out. Nothing is ever written to a disk."""

import hashlib
import io
import tarfile
from functools import lru_cache

FILE_BYTES_MAX = 4 * 1024 * 1024
TOTAL_BYTES_MAX = 32 * 1024 * 1024


@lru_cache(maxsize=4)  # several steps look into the same archive
def files(sdist: bytes) -> dict[str, bytes]:
    """Paths (below the archive's one top folder) and contents, sorted. ValueError: not an archive to unpack."""
    found: dict[str, bytes] = {}
    total = 0
    with tarfile.open(fileobj=io.BytesIO(sdist), mode="r:gz") as archive:
        for member in archive:
            if member.isdir():
                continue
            _top, _, path = member.name.partition("/")
            if not member.isfile() or not path or ".." in member.name.split("/"):
                raise ValueError(f"{member.name!r} is not a regular file below one top folder")
            total += member.size
            if member.size > FILE_BYTES_MAX or total > TOTAL_BYTES_MAX:
                raise ValueError(f"{member.name!r} is too large to audit")
            content = archive.extractfile(member)
            assert content is not None, "a regular file has content"
            found[path] = content.read()
    return dict(sorted(found.items()))


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def line_count(content: bytes) -> int:
    """Lines of text; 0 for what is not UTF-8."""
    try:
        return len(content.decode().splitlines())
    except UnicodeDecodeError:
        return 0
