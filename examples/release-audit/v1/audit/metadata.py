"""A release's PKG-INFO: who it says it is, and under which licence."""

from email.parser import BytesParser


def read(files: dict[str, bytes]) -> dict:
    """Name, version and licence; licence files are those whose name says so."""
    headers = BytesParser().parsebytes(files.get("PKG-INFO", b""), headersonly=True)
    licence = headers["License-Expression"] or headers["License"] or ""
    named = [path for path in files if path.rpartition("/")[2].upper().startswith(("LICENSE", "LICENCE", "COPYING"))]
    return {
        "name": headers["Name"] or "",
        "version": headers["Version"] or "",
        "licence": licence.strip().splitlines()[0] if licence.strip() else "not declared",
        "licence_files": named,
    }
