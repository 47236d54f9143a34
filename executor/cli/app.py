"""The tree of commands: the program and its groups. Each module beside this one adds its commands to it."""

from __future__ import annotations

from importlib import metadata

from cyclopts import App


def version() -> str:
    return metadata.version("perdure")


app = App(
    name="perdure",
    help="Durable workflows for many tenants whose code arrives by git push.",
    version=version,
    result_action="return_value",
)
tenants = App(name="tenants", help="Tenants and their tokens.")
tokens = App(name="tokens", help="Tokens: passwords of git remotes, and of the API.")
instances = App(name="instances", help="Instances: look at them, talk to them, stop them.")
versions = App(name="versions", help="Deployed commits, and the channels that are on them.")
schedules = App(name="schedules", help="Schedules: workflows that start by themselves.")
tenants.command(tokens)
for group in (tenants, instances, versions, schedules):
    app.command(group)
