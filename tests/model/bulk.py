"""Search and bulk operations of the oracle."""

from __future__ import annotations

from typing import Any

from executor.service.bulk import IDS_SHOWN_MAX
from tests.model.states import Instance, Refusal

NOTHING = {
    "pause": {"paused"},
    "resume": {"running", "waiting", "undoing"},
    "terminate": {"terminated"},
}
"""States in which an operation is so already."""


class Bulk:
    """Part of Oracle."""

    instances: dict[str, Instance]

    def find(self, state: str | None, where: dict[str, Any] | None) -> list[str]:
        """Ids, sorted."""
        found = [
            instance.id
            for instance in self.instances.values()
            if state in {None, instance.state}
            and all(instance.attributes.get(name) == value for name, value in (where or {}).items())
        ]
        return sorted(found)

    def bulk(self, operation: str, state: str | None, where: dict[str, Any] | None) -> Any:
        """How many fit, and which; how many were done, how many were so already, and the codes of the others."""
        ids = self.find(state, where)
        done = unchanged = 0
        errors: dict[str, str] = {}
        for name in ids:
            is_so = self.instances[name].state in NOTHING.get(operation, set())
            try:
                getattr(self, operation)(name)
            except Refusal as refusal:
                if (operation, refusal.code) == ("terminate", "instance_finished"):
                    unchanged += 1
                else:
                    errors[name] = refusal.code
                continue
            done, unchanged = done + (not is_so), unchanged + is_so
        return len(ids), ids if len(ids) <= IDS_SHOWN_MAX else [], len(ids), done, unchanged, errors

    def are_strangers(self, ids: list[str]) -> bool:
        """Whether what is done to one of them has nothing to do with another: else chance says which is first."""
        return not any((self.instances[name].parent or ("",))[0] in self.instances for name in ids)
