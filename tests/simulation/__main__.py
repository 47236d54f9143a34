"""`python -m tests.simulation --seed N` repeats a seed and prints its trace; `--count M` tries M seeds from N on."""

from __future__ import annotations

import argparse
import sys
import time
import traceback

from tests.simulation.stories import RandomStory
from tests.simulation.world import World

FAILURES_MAX = 8


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--trace", action="store_true", help="print the trace of seeds that hold, too")
    options = parser.parse_args(arguments)
    failed = executed = acknowledged = 0
    began = time.process_time()
    for seed in range(options.seed, options.seed + options.count):
        world = World(seed)
        try:
            RandomStory(world).run()
        except BaseException:
            failed += 1
            print("\n".join(world.trace[-400:] if options.count > 1 else world.trace))
            traceback.print_exc()
            if failed > FAILURES_MAX:
                return 1
            print(f"FAILED: python -m tests.simulation --seed {seed}")
        else:
            if options.trace:
                print("\n".join(world.trace))
        finally:
            world.close()
        executed += world.witness.executed
        acknowledged += world.witness.acknowledged
    seconds = time.process_time() - began
    print(
        f"{options.count} seeds, {failed} failed; {acknowledged} acknowledgements, {executed} step attempts, {seconds:.1f} s CPU"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
