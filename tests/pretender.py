"""Stands in for a controller: tells its study trials that nobody ran, and obeys signals as the command line does.

Every trial is a line of ran.txt in the working directory, and so is a second pretender at the same time. What it does
beside that stands in pretend.json there: seconds a trial (and as how many it counts), an error, or after how many
trials it dies. Where there is no such file, it is no pretender but the command line. It imports nothing that takes
long.
"""

import fcntl
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

COLUMNS = ("size_bytes", "accuracy", "latency_ms")
RECIPE = {"version": 1, "steps": []}
BASELINE = {"size_bytes": 200.0, "accuracy": 0.6, "latency_ms": 2.0}


def pretend(config: dict[str, Any], target: int, plan: dict[str, Any], stop: list[int]) -> int:
    """Search until the target is reached or a signal came; the exit code."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        storage=config["storage"],
        study_name=config["study"],
        directions=["minimize", "maximize", "minimize"],
        sampler=optuna.samplers.RandomSampler(),
        load_if_exists=True,
    )
    for key, value in {"objectives": COLUMNS, "quality": "accuracy", "baseline": BASELINE, "folder": "."}.items():
        study.set_user_attr(key, value)
    last = plan.get("dies_after", target + 1)
    trials = study.get_trials(deepcopy=False)
    done = sum(trial.state.is_finished() for trial in trials)
    if done >= last:
        os.kill(os.getpid(), signal.SIGKILL)
    running = [optuna.Trial(study, trial._trial_id) for trial in trials if not trial.state.is_finished()]
    while done < target and not stop:
        trial = running.pop() if running else study.ask()
        trial.set_user_attr("recipe", RECIPE)
        time.sleep(plan.get("seconds", 0.05))
        if done >= last:
            os.kill(os.getpid(), signal.SIGKILL)
        with Path("ran.txt").open("a") as ran:
            ran.write(f"{trial.number}\n")
        values = [100.0 - trial.number, 0.5, 1.0]
        speed = {"speedup": 2.0, "compression_ratio": 200.0 / values[0]}
        metrics = {**dict(zip(COLUMNS, values, strict=True)), **speed}
        seconds = {"train": plan.get("counts", 0.0)}
        found = {"type": "completed", "metrics": metrics, "violations": {}, "seconds": seconds}
        trial.set_user_attr("outcome", found)
        study.tell(trial.number, values)
        done += 1
    return 130 if stop else 0


def main() -> None:
    """What terminal/job.py does, around a search that is pretended."""
    import yaml

    lock, run, path, *command = sys.argv[1:]
    os.set_inheritable(int(lock), False)
    stop: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: stop.append(number))
    who = {"host": socket.gethostname(), "pid": os.getpid(), "run": int(run)}
    os.ftruncate(int(lock), 0)
    os.pwrite(int(lock), json.dumps(who).encode(), 0)
    with Path("guard").open("w") as guard:
        try:
            fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            Path("ran.txt").write_text("twice\n")
        plan, config = json.loads(Path("pretend.json").read_text()), yaml.safe_load(Path(command[1]).read_text())
        trials = int(command[command.index("--trials") + 1]) if "--trials" in command else config["search"]["trials"]
        if plan.get("refuses"):
            sys.stderr.write(f"error: {plan['refuses']}\n")
            code = 2
        else:
            code = pretend(config, trials, plan, stop)
    new = Path(f"{path}.new")
    new.write_text(f"{code}\n")
    new.replace(path)
    sys.exit(code)


if __name__ == "__main__":
    if Path("pretend.json").is_file():
        main()
    else:
        from autocompress.terminal.job import main as real

        real()
