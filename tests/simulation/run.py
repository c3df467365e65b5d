"""Walk through many worlds: `python tests/simulation/run.py --walks 1000 --from 0 [--workers 2]`.

Prints how often each fault took effect, what broke (shortened, with a replay), and the rate."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from multiprocessing import get_context
from pathlib import Path

HERE = Path(__file__).resolve().parent
LEAST = 0.02  # of the walks each fault takes effect in
CHUNK = 20  # walks that a process takes at a time; what they leave is collected then
TOLD = 1_000  # walks between two words of how many there were
sys.path[:1] = [str(HERE.parents[1]), str(HERE.parent)]
os.environ.setdefault("OMP_NUM_THREADS", "1")


def some(
    seeds: Sequence[int], stop: bool = False, few: bool = False
) -> tuple[int, Counter[str], int, list[tuple[int, list[str]]]]:
    """Walks, of `few` steps each or of many; kinds of faults and their forms -> walks in which they took effect; walks
    that completed a stage after one; what broke."""
    import gc

    from simulation.steps import draw_short, took_effect
    from simulation.walk import walk
    from simulation.world import installed

    counts: Counter[str] = Counter()
    walks, after, broken = 0, 0, []
    with installed() as folder:
        gc.collect()
        gc.freeze()
        gc.disable()
        for seed in seeds:
            outcome = walk(folder, seed, draw_short(seed) if few else None)
            walks += 1
            counts.update(set(outcome.counts) | took_effect(outcome.counts))
            after += outcome.after_fault
            if outcome.violations:
                broken.append((seed, outcome.violations))
                if stop:
                    break
    return walks, counts, after, broken


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--walks", type=int, default=1000)
    options.add_argument("--from", dest="first", type=int, default=0)
    options.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options.add_argument("--seed", type=int, help="only this one, shortened, with all that happened")
    options.add_argument("--seeds", help="only these, such as 3,14,15")
    options.add_argument("--stop", action="store_true", help="at the first that breaks something")
    options.add_argument("--long", action="store_true", help="with --seed: not shortened")
    options.add_argument("--few", action="store_true", help="some ten steps each, of jobs that go on unseen")
    asked = options.parse_args()
    if asked.seed is not None:
        from simulation.steps import draw, draw_short
        from simulation.walk import told, walk
        from simulation.world import installed

        drawn = (draw_short if asked.few else draw)(asked.seed)
        with installed() as folder:
            outcome = walk(folder, asked.seed, drawn)
            text = told(folder, asked.seed, outcome, bool(outcome.violations) and not asked.long, drawn)
        print(text)
        return int(bool(outcome.violations))
    if asked.stop:
        walks, *_, broken = some(range(asked.first, asked.first + asked.walks), stop=True)
        print(*(f"seed {seed}: {violations[0][:1500]}" for seed, violations in broken), f"{walks} walks", sep="\n")
        return int(bool(broken))
    began, counts, walks, after = time.monotonic(), Counter(), 0, 0
    broken: list[tuple[int, list[str]]] = []
    last = asked.first + asked.walks
    chunks: list[Sequence[int]] = [range(start, min(start + CHUNK, last)) for start in range(asked.first, last, CHUNK)]
    if asked.seeds:
        chunks = [[int(seed)] for seed in asked.seeds.split(",")]
    with get_context("spawn").Pool(asked.workers) as pool:
        for number, found, completed, bad in pool.imap_unordered(partial(some, few=asked.few), chunks):
            walks, after = walks + number, after + completed
            counts.update(found)
            broken += bad
            for seed, violations in bad:
                print(f"seed {seed}: {violations[0][:1500]}", flush=True)
            if walks % TOLD == 0:
                rate = walks / (time.monotonic() - began)
                print(f"{walks:,} walks, {len(broken)} broken, {rate:.2f} a second", file=sys.stderr, flush=True)
    seconds = time.monotonic() - began
    for fault, number in sorted(counts.items()):
        print(f"{fault:45} {number:6} {100 * number / walks:5.1f} %")
    rare = rarely(counts, walks)
    if rare and not asked.few:
        print(f"in less than {100 * LEAST:.0f} % of the walks: {', '.join(rare)}")
    print(
        f"{walks} walks, {len(broken)} broken, {after} completed a stage after a fault; {walks / seconds:.2f} walks/s"
    )
    return int(bool(broken or (rare and walks >= 1000 and not asked.few)))


def rarely(counts: Counter[str], walks: int) -> list[str]:
    """The kinds of faults that took effect in too few walks."""
    from simulation.steps import FAULTS

    return [fault for fault in FAULTS if counts[fault] < LEAST * walks]


if __name__ == "__main__":
    sys.exit(main())
