"""Installing, starting and driving the systems that `tools.bench.peers` compares."""
