"""Perdure's executor: durable workflows of many tenants, each instance on the commit it is pinned to."""
