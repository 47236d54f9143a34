"""Code of many tenants: bare git repositories, their versions, channels, pins and bundles, in one folder.

Synchronous and thread-safe; knows no event loop and no server. Other packages import from here only.
"""

from .errors import (
    ChannelMoved,
    Conflict,
    Corrupt,
    Diagnostic,
    GitStoreError,
    InvalidName,
    LimitExceeded,
    NotFound,
    Refused,
    TenantExists,
    TenantNotFound,
    Unavailable,
    VersionNotFound,
)
from .limits import Limits
from .names import DEFAULT_BRANCH, DEFAULT_CHANNEL, parse_channel, parse_commit, parse_tenant
from .repository import Repository
from .rows import (
    Access,
    BundleRef,
    Channel,
    ChannelMove,
    CommitMeta,
    Deployment,
    FileEntry,
    GarbageReport,
    MoveKind,
    NewToken,
    Pin,
    TenantRow,
    TokenRow,
    WorkflowFound,
)
from .store import GitStore

__all__ = [
    "DEFAULT_BRANCH",
    "DEFAULT_CHANNEL",
    "Access",
    "BundleRef",
    "Channel",
    "ChannelMove",
    "ChannelMoved",
    "CommitMeta",
    "Conflict",
    "Corrupt",
    "Deployment",
    "Diagnostic",
    "FileEntry",
    "GarbageReport",
    "GitStore",
    "GitStoreError",
    "InvalidName",
    "LimitExceeded",
    "Limits",
    "MoveKind",
    "NewToken",
    "NotFound",
    "Pin",
    "Refused",
    "Repository",
    "TenantExists",
    "TenantNotFound",
    "TenantRow",
    "TokenRow",
    "Unavailable",
    "VersionNotFound",
    "WorkflowFound",
    "parse_channel",
    "parse_commit",
    "parse_tenant",
]
