"""Stands in for a controller: tells its study trials that nobody ran, and obeys signals as the command line does.

Every trial is a line of ran.txt in the working directory, and so is a second pretender at the same time. What it does
beside that stands in pretend.json there: seconds a trial, an error, or after how many trials it dies. Where there is no
such file, it is no pretender but the command line.
"""

import fcntl
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

if not Path("pretend.json").is_file():
    from autocompress.terminal.job import main

    main()
lock, run, path, *command = sys.argv[1:]
os.set_inheritable(int(lock), False)
stop: list[int] = []
signal.signal(signal.SIGINT, lambda number, _: stop.append(number))
signal.signal(signal.SIGTERM, lambda number, _: stop.append(number))
who = {"host": socket.gethostname(), "pid": os.getpid(), "run": int(run)}
os.ftruncate(int(lock), 0)
os.pwrite(int(lock), json.dumps(who).encode(), 0)
ran = Path("ran.txt").open("a", buffering=1)  # noqa: SIM115
guard = Path("guard").open("w")  # noqa: SIM115
try:
    fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    ran.write("twice\n")

from autocompress.config import load_config  # noqa: E402
from autocompress.outcome import Completed  # noqa: E402
from autocompress.search.store import StudyStore, study_names  # noqa: E402

plan = json.loads(Path("pretend.json").read_text())
config = load_config(Path(command[1]))
target = int(command[command.index("--trials") + 1]) if "--trials" in command else config.search.trials
if plan.get("refuses"):
    sys.stderr.write(f"error: {plan['refuses']}\n")
    code = 2
else:
    names = ("size_bytes", "accuracy", "latency_ms")
    if config.study in study_names(config.storage):
        store = StudyStore.open(config.storage, config.study)
    else:
        store = StudyStore.create(
            config,
            names,
            {
                "quality": "accuracy",
                "baseline": {"size_bytes": 200.0, "accuracy": 0.6, "latency_ms": 2.0},
                "folder": ".",
            },
        )
    if len(store.finished()) >= plan.get("dies_after", target + 1):
        os.kill(os.getpid(), signal.SIGKILL)
    for number in store.running():
        store._trial(number).set_user_attr("recipe", {"version": 1, "steps": []})
        store.tell(number, Completed(dict.fromkeys(names, 1.0), {}))
    while (done := len(store.finished())) < target and not stop:
        trial = store._study.ask()
        trial.set_user_attr("recipe", {"version": 1, "steps": []})
        time.sleep(plan.get("seconds", 0.05))
        if done >= plan.get("dies_after", target + 1):
            os.kill(os.getpid(), signal.SIGKILL)
        store.tell(trial.number, Completed({"size_bytes": 100.0 - done, "accuracy": 0.5, "latency_ms": 1.0}, {}))
        ran.write(f"{trial.number}\n")
    store.set("verdict", "feasible")
    code = 130 if stop else 0
new = Path(f"{path}.new")
new.write_text(f"{code}\n")
new.replace(path)
sys.exit(code)
