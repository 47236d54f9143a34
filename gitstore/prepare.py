"""A commit to what a deployment needs: its analysis and its bundle, made in one limited child."""

from __future__ import annotations

from .bundle import Prepared, build, ensure
from .errors import Diagnostic, code_invalid
from .parts import Parts
from .quarantine import Quarantine

__all__ = ["Prepared", "analysis_and_bundle", "ensure"]


def analysis_and_bundle(parts: Parts, tenant: str, commit: str, *, quarantine: Quarantine | None = None) -> Prepared:
    """Analyse the checked commit and make its bundle, in place and durable on return.

    `quarantine`: where the commit's objects are while they are not published yet.
    Raises Refused (`code_invalid`, with `diagnostics`; `object_refused`), LimitExceeded, Unavailable.
    """
    objects = quarantine.objects_path if quarantine is not None else parts.repository_path(tenant) / "objects"
    prepared = build(parts, objects, commit)
    wrong = [
        Diagnostic(found.path, found.line, 1, f"{found.name}: {problem}")
        for found in prepared.analysis.workflows
        if (problem := parts.check_workflow(found)) is not None
    ]
    if wrong:
        raise code_invalid(wrong)
    return prepared
