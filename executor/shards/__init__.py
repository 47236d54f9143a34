"""Shards: one executor process per core, and one front that routes each call by its instance's id.

channel.py     calls and answers between the front and one shard process, over a socket pair
calls.py       which calls there are, and the types that travel
process.py     the program of a shard process: a store, an engine and sandboxes of its own
supervisor.py  starts a shard process, watches it, starts it again
remote.py      the Instances port over a channel
router.py      the Instances port over several others
layout.py      which process has which shards, and moving them when their number changes
"""
