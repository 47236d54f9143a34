"""Limits of what runs inside a sandbox: they give clear errors; the kernel's and the host's own bounds are apart."""

from __future__ import annotations

from dataclasses import dataclass, field

from executor.core.values import VALUE_BYTES_MAX
from facets.limits import Limits as FacetLimits


@dataclass(frozen=True, slots=True)
class ChildLimits:
    """`step_threads` serve sync steps; at most `attempt_count_max` attempts execute at once in one process: twice the
    runs that a sandbox carries, so that it holds back a run with very many parallel steps, and nothing else.

    Output is bounded per line and per run (one activation of an instance). `retry_answer_s`: what a function of a retry
    option has to answer.
    """

    value_bytes_max: int = VALUE_BYTES_MAX
    step_threads: int = 8
    attempt_count_max: int = 20_000
    line_bytes_max: int = 8 * 1024
    output_bytes_max: int = 1024 * 1024
    output_lines_max: int = 20_000
    facet_wait_s: float = 60.0
    blob_wait_s: float = 300.0
    retry_answer_s: float = 5.0
    facet: FacetLimits = field(default_factory=FacetLimits)
