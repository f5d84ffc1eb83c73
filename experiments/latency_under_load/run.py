"""Do other programs on the machine change a measured speed-up? Writes results.csv and table.md beside this file.

LeNet-5 against itself (truth: 1) and against a narrow LeNet-5, alone and beside busy programs, by the system's clock
and by the clock of the measuring thread, which `autocompress` takes; each several times.

Usage: python experiments/latency_under_load/run.py   (about three minutes on two cores)
"""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch

from autocompress.artifacts.export import export_onnx, strip
from autocompress.measure import latency

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "techniques"))
from networks import LeNet5  # type: ignore[import-not-found]  # noqa: E402

REPEATS, BUSY, SECONDS = 12, 6, 1.0
CLOCKS = {"system": time.perf_counter, "thread": time.thread_time}
PROGRAM = "import numpy as np\na = np.random.rand(600, 600)\nwhile True:\n    a @ a\n    [i * i for i in range(20000)]"


@contextlib.contextmanager
def load(programs: int) -> Iterator[None]:
    """Other programs that keep the machine busy, with one thread each."""
    alone = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    running = [subprocess.Popen([sys.executable, "-c", PROGRAM], env=alone) for _ in range(programs)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def main() -> None:
    """Measure every pair and write what was found."""
    images = torch.randn(2, 1, 28, 28)
    wide, narrow = (strip(export_onnx(LeNet5(*widths).eval(), (images,))).SerializeToString()
                    for widths in ((20, 50, 500), (2, 6, 60)))  # fmt: skip
    rows = []
    for programs in (0, BUSY):
        with load(programs):
            for pair, other in {"LeNet-5 / itself": wide, "LeNet-5 / narrow": narrow}.items():
                for name, clock in CLOCKS.items():
                    latency.clock_for = lambda _, clock=clock: clock  # type: ignore[assignment, misc]
                    for _ in range(REPEATS):
                        found = latency.measure_latency(wide, other, (images[:1].numpy(),), SECONDS)
                        rows.append({"case": pair, "busy_programs": programs, "clock": name, **found})
                    print(pair, programs, name, [round(row["speedup"], 2) for row in rows[-REPEATS:]], flush=True)
    found = pd.DataFrame(rows)
    found.to_csv(HERE / "results.csv", index=False, float_format="%.5g")
    (HERE / "table.md").write_text(table(found))


def table(rows: pd.DataFrame) -> str:
    """Median, spread and extremes of the speed-ups."""
    lines = ["| pair | busy programs | clock | median speed-up | standard deviation | lowest to highest | interval |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    for (programs, pair, clock), part in rows.groupby(["busy_programs", "case", "clock"]):
        found, width = part["speedup"], (part["speedup_high"] - part["speedup_low"]).median()
        lines.append(
            f"| {pair} | {programs} | {clock} | {found.median():.2f}x | {found.std() / found.median():.1%} | "
            f"{found.min():.2f}x to {found.max():.2f}x | {width / found.median():.1%} wide |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
