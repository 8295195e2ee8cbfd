"""What `make bench` does: measure the kit and every notebook, write results/bench.json."""

import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from fss.bench import measure, tables
from fss.bench.timing import Rows, megabytes
from fss.files import check_writable, write_json

ROOT = Path(__file__).resolve().parents[1]


def notebooks() -> Rows:
    """Run every notebook once, in order and from an empty cache, as `make run-all` does.

    The memory is that of the largest process, which is the kernel.
    """
    rows: Rows = []
    with TemporaryDirectory() as folder:
        environment = os.environ | {"XDG_CACHE_HOME": folder}
        for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")):
            build = [str(ROOT / "tools" / "notebooks.py"), "build", str(path), "--out", folder]
            start = time.perf_counter()
            process = subprocess.Popen([sys.executable, *build], env=environment)
            _, status, usage = os.wait4(process.pid, 0)
            if status:
                sys.exit(f"{path.name} failed")
            seconds = time.perf_counter() - start
            peak = megabytes(usage.ru_maxrss)
            rows.append({"name": path.stem, "seconds": seconds, "peak_mb": peak, "repeats": 1})
    return rows


def main() -> None:
    """Measure, write and print."""
    out = ROOT / "results" / "bench.json"
    check_writable(out)
    start = time.perf_counter()
    result = measure()
    result["parts"]["notebooks"] = notebooks()
    result["seconds"] = time.perf_counter() - start
    write_json(out, {"command": "make bench", **result})
    print(tables(result))


if __name__ == "__main__":
    main()
