"""A Postgres that is killed while searches run, and comes back."""

import json
import signal
from pathlib import Path

from databases import running_postgres
from served import archive, controllers, served, until
from sqlalchemy import text

from autocompress.service.database import Database

TRIALS = 20


def test_searches_go_on_after_their_postgres_was_killed_and_nothing_is_lost_or_told_twice(tmp_path: Path) -> None:
    config = {"study": "one", "task": "task.py:tiny", "search_space": "space.yaml", "tracking": None}
    files = {"search.yaml": json.dumps(config), "pretend.json": json.dumps({"seconds": 0.1}), "task.py": ""}
    with running_postgres() as postgres, served(tmp_path, storage=(storage := postgres.make())) as server:
        sent = server.client.post(
            "/api/v1/searches", files={"archive": archive(files)}, data={"trials": str(TRIALS)}
        ).json()
        ran = tmp_path / "service" / "searches" / sent["id"] / "project" / "ran.txt"
        until(lambda: ran.is_file() and len(ran.read_text().split()) > 3)
        postgres.stop(signal.SIGQUIT)
        answer = server.client.get("/api/v1/searches/one")
        assert (answer.status_code, answer.json()["what"]) == (503, "the database does not answer")
        assert answer.headers["retry-after"]
        assert server.client.get("/readyz").status_code == 503
        assert server.client.get("/healthz").status_code == 200
        until(lambda: not controllers(tmp_path, "one"))  # it cannot tell its trials
        postgres.start()
        found = server.wait("one", "finished", "failed")
        assert (found["state"], found["run"]) == ("finished", 2)
        database = Database(storage)
        with database.transaction() as session:
            told = session.execute(text("SELECT data FROM service_events WHERE kind = 'trial'")).scalars().all()
            states = session.execute(text("SELECT state, count(*) FROM trials GROUP BY state")).all()
        database.close()
        assert sorted(data["trial"] for data in told) == list(range(TRIALS))
        assert [tuple(row) for row in states] == [("COMPLETE", TRIALS)]
        assert "twice" not in ran.read_text()
        for log in (tmp_path / "service" / "searches").glob("*/runs/*.log"):
            assert "%2Fc" not in log.read_text()  # of the password
    assert "Traceback" not in (tmp_path / "server.log").read_text()
