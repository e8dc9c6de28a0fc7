"""How long `import autocompress` takes: fresh interpreters with it and without it, in turn.

python tests/benchmarks/import_time.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

STARTS = 9
LIMIT = 0.15


def seconds(code: str) -> float:
    """Wall time of a fresh interpreter that runs the code."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - begin


def main() -> None:
    """Print the medians and their difference."""
    seconds("import autocompress")  # the bytecode is cached from here on
    pairs = [(seconds("pass"), seconds("import autocompress")) for _ in range(STARTS)]
    bare, importing = (statistics.median(times) for times in zip(*pairs, strict=True))
    print(f"bare interpreter        {bare * 1000:7.1f} ms (median of {STARTS})")
    print(f"with import autocompress{importing * 1000:7.1f} ms (median of {STARTS}, {importing / bare:.2f} x)")
    print(f"import autocompress     {(importing - bare) * 1000:7.1f} ms (at most {LIMIT * 1000:.0f} ms)")


if __name__ == "__main__":
    main()
