"""Bounds on what a tenant may push and keep. One frozen object, checked in one place each.

The defaults come from measurement (an ordinary application is some thousand files and some megabytes) and leave room
of an order of magnitude; the attacks they stop are a 1.9 KB pack that unfolds to 1 GiB in a delta chain and a 695-byte
one that unfolds to 10^8 files.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB


@dataclass(frozen=True, slots=True)
class Limits:
    """All bounds of one store. Every field is a positive integer; the last word of its name is its unit."""

    # One push.
    pack_bytes_max: int = 128 * MIB
    object_count_max: int = 50_000
    object_bytes_max: int = 32 * MIB
    inflated_bytes_max: int = 512 * MIB  # all objects of one pack, delta results included
    ref_updates_max: int = 1_000
    push_options_max: int = 32
    # One tree, expanded: what the pack's own size says nothing about.
    tree_depth_max: int = 32
    tree_files_max: int = 20_000
    tree_bytes_max: int = 256 * MIB
    name_bytes_max: int = 255  # one path component, as on every usual file system
    path_bytes_max: int = 1_024
    # One tenant.
    ref_count_max: int = 5_000
    ref_name_bytes_max: int = 255
    repository_bytes_max: int = 2 * GIB
    # The limited children in which hostile input may be slow.
    ingest_cpu_s: int = 60
    ingest_memory_bytes: int = 1 * GIB
    compile_cpu_s: int = 30
    compile_memory_bytes: int = 1 * GIB
    source_bytes_max: int = 4 * MIB  # one Python file; larger ones are data and not compiled
    bundle_bytes_max: int = 512 * MIB
    # Texts of people and clients that are stored in rows.
    message_bytes_max: int = 64 * KIB
    label_bytes_max: int = 256
    # What is kept, and when leftovers of a crash may go.
    channel_history_kept: int = 50  # versions of each channel that garbage collection keeps
    pack_count_max: int = 32  # more packs than this slow every read; collect_garbage makes one of them
    leftover_age_s: int = 3_600  # a younger quarantine, bundle or temporary file may belong to a running push

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if type(value) is not int or value <= 0:
                raise ValueError(f"Limits.{field.name} must be a positive integer, not {value!r}.")
