"""HTTP: the API, git and operations over one service."""
