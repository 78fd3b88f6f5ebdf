"""What it costs to start: whole processes in turn, the median of each and its ratio to importing click alone.

    python benchmarks/startup.py
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "import click": [sys.executable, "-c", "import click"],
    "busistore --help": ["busistore", "--help"],
    "busistore encode --help": ["busistore", "encode", "--help"],
    "busistore list methods": ["busistore", "list", "methods"],
}
MOST = 4.0  # times what importing click costs


def seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for k in range(rounds + 1):
        for name, command in COMMANDS.items():
            spent = seconds(command)
            if k:  # the first round warms the disk cache
                times[name].append(spent)
    base = times["import click"]
    print("| command | median, s | ratio, median of rounds | least | most |\n|---|---|---|---|---|")
    for name, spent in times.items():
        ratios = [a / b for a, b in zip(spent, base)]
        middle, least, most = statistics.median(ratios), min(ratios), max(ratios)
        print(f"| {name} | {statistics.median(spent):.3f} | {middle:.2f} | {least:.2f} | {most:.2f} |")
    return int(statistics.median(a / b for a, b in zip(times["busistore --help"], base)) > MOST)


if __name__ == "__main__":
    sys.exit(main())
