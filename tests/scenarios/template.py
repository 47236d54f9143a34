"""Imported once by the template process that servers of the durability tests are forked from: what costs each fresh
process the same half second (imports, asking the dynamic loader for the sandbox's libraries) is done here, once."""

from executor.sandbox.cell import CellOptions, prepare_tree
from tests.scenarios import crash_server

prepare_tree(CellOptions())
__all__ = ["crash_server"]
