"""Settings that Restate's documents give for hypercorn in production, and one process for each core of this size."""

workers = 2
h2_max_concurrent_streams = 2147483647
keep_alive_max_requests = 2147483647
keep_alive_timeout = 2147483647
