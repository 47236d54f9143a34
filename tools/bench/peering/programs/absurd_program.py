"""W3 on Absurd: `absurd_program.py DATABASE_URL`. The client, which starts its workers itself.

Two worker processes with a concurrency of 50, the fastest setting found; they poll each 10 ms instead of the SDK's
250 ms, and the client looks for results each 2 ms instead of 50, so that what is compared is not the polling.
"""

import asyncio
import subprocess
import sys
import time

QUEUE = "bench"
WORKERS = 2
WORKER_POLL_S = 0.01
CLIENT_POLL_S = 0.002


def work(url):
    """A worker process."""
    from absurd_sdk import AsyncAbsurd

    app = AsyncAbsurd(url, queue_name=QUEUE)

    async def one(number):
        return {"number": number}

    @app.register_task("three")
    async def three(params, context):
        for number in range(3):
            last = await context.step(f"step {number}", lambda number=number: one(number))
        return last

    asyncio.run(app.start_worker(concurrency=50, poll_interval=WORKER_POLL_S))


def main(url):
    import psycopg
    from absurd_sdk import Absurd
    from absurdctl import BUNDLED_SCHEMA_SQL
    from asked import serve

    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(BUNDLED_SCHEMA_SQL)
        app = Absurd(url, queue_name=QUEUE)
        app.create_queue(QUEUE)
        workers = [subprocess.Popen([sys.executable, __file__, url, "worker"]) for _ in range(WORKERS)]

        def completed():
            asked = f"select count(*) from absurd.t_{QUEUE} where state = 'completed'"
            return connection.execute(asked).fetchone()[0]

        def crowd(count, in_flight):
            before = done = completed()
            for number in range(count):
                while before + number - done >= in_flight:
                    time.sleep(CLIENT_POLL_S * 5)
                    done = completed()
                app.spawn("three", {"number": number}, queue=QUEUE)
            while completed() - before < count:
                time.sleep(CLIENT_POLL_S * 5)

        def alone(number):
            spawned = app.spawn("three", {"number": number}, queue=QUEUE)
            while True:
                found = app.fetch_task_result(spawned["task_id"], queue_name=QUEUE)
                if found is not None and found.state == "completed":
                    assert found.result == {"number": 2}
                    return
                time.sleep(CLIENT_POLL_S)

        try:
            serve(crowd, alone)
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()


if __name__ == "__main__":
    if sys.argv[2:] == ["worker"]:
        work(sys.argv[1])
    else:
        main(sys.argv[1])
