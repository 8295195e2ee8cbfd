"""What `make bench` does: measure the kit and every notebook, write results/bench.json."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from fss.files import check_writable, write_json
from fss.lab.bench import measure, tables
from fss.lab.bench.timing import Rows, megabytes

ROOT = Path(__file__).resolve().parents[1]
# A process begins with the peak memory of the one that starts it, hence a small one in between.
PEAK = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:], stdout=sys.stderr)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""


def notebooks(paths: Sequence[Path]) -> Rows:
    """Run notebooks once each as `make run-all` does: in order, one thread, an empty cache.

    The memory is that of the largest process, which is the kernel.
    """
    rows: Rows = []
    with TemporaryDirectory() as folder:
        environment = os.environ | {"XDG_CACHE_HOME": folder, "OMP_NUM_THREADS": "1"}
        for path in paths:
            build = [str(ROOT / "tools" / "run_notebooks.py"), "build", str(path), "--out", folder]
            start = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-c", PEAK, sys.executable, *build],
                env=environment,
                stdout=subprocess.PIPE,
                text=True,
            )
            seconds = time.perf_counter() - start
            if done.returncode:
                sys.exit(f"{path.name} failed")
            peak = megabytes(int(done.stdout))
            rows.append({"name": path.stem, "seconds": seconds, "peak_mb": peak, "repeats": 1})
    return rows


def main() -> None:
    """Measure, write and print."""
    out = ROOT / "results" / "bench.json"
    check_writable(out)
    start = time.perf_counter()
    ran = notebooks(sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")))  # first: they may fail
    result = measure()
    result["parts"]["notebooks"] = ran
    seconds = time.perf_counter() - start
    write_json(out, {"command": "make bench", "seconds": seconds, **result})
    print(tables(result), end="")


if __name__ == "__main__":
    main()
