"""The demonstration: `python -m tools.demo`, or `make demo`. Nothing in it is a mock; every claim is checked."""
