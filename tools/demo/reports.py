"""What reports of the audits must say, counted here from the same archives."""

from __future__ import annotations

import hashlib
from typing import Any

from tools.demo.releases import Release


def inventory(release: Release) -> dict[str, Any]:
    """What a report of v1 must say."""
    files = sorted(release.files.items())
    seal = repr([(path, hashlib.sha256(content).hexdigest()) for path, content in files])
    return {
        "files": len(files),
        "bytes": sum(len(content) for _, content in files),
        "lines": sum(_lines(content) for _, content in files),
        "modules": len(release.modules),
        "seal": hashlib.sha256(seal.encode()).hexdigest(),
    }


def _lines(content: bytes) -> int:
    try:
        return len(content.decode().splitlines())
    except UnicodeDecodeError:
        return 0


def summary(result: dict[str, Any]) -> str:
    if "verdict" in result:
        return f"risk {result['verdict']}, score {result['score']}"
    return f"{result['files']} files, {result['lines']:,} lines"
