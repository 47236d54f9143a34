"""What `git push -o …` may ask for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .names import parse_channel
from .shown import shown

__all__ = ["PushOptions", "parse_options"]


@dataclass(frozen=True, slots=True)
class PushOptions:
    """What `git push -o …` asks for. `warnings`: options that mean nothing here."""

    message: str | None = None
    no_deploy: bool = False
    pin: bool = False
    channel: str | None = None
    warnings: tuple[str, ...] = ()


def parse_options(options: Iterable[bytes]) -> PushOptions:
    """Read push options; unknown ones become warnings. Raises InvalidName for a bad channel."""
    message: str | None = None
    channel: str | None = None
    no_deploy = pin = False
    warnings: list[str] = []
    for option in options:
        name, equals, value = option.decode(errors="replace").partition("=")
        if name == "message" and equals:
            message = value
        elif name == "channel" and equals:
            channel = parse_channel(value)
        elif name == "no-deploy" and not equals:
            no_deploy = True
        elif name == "pin" and not equals:
            pin = True
        else:
            known = "message=TEXT, channel=NAME, no-deploy, pin"
            warnings.append(f"push option {shown(option)!r} is unknown (known: {known})")
    if no_deploy and channel is not None:
        warnings.append("push option 'channel' does nothing beside 'no-deploy'")
    return PushOptions(message, no_deploy, pin, channel, tuple(warnings))
