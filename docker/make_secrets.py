"""Makes the secrets of the stack, as files that their owner alone may read; those that are there are kept.

python docker/make_secrets.py [FOLDER]: docker/secrets if none is given.
"""

import os
import secrets
import sys
from collections.abc import Callable
from pathlib import Path

AUTH = """[mlflow]
default_permission = READ
database_uri = postgresql+psycopg://mlflow@/mlflow_auth
auth_cache_ttl_seconds = 60
admin_username = admin
admin_password = {password}
"""


def make_secrets(folder: Path) -> None:
    """Write what is missing in a folder."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in ("postgres_password", "mlflow_flask_key", "mlflow_password", "ray_token"):
        _keep(folder / name, lambda: secrets.token_hex(32))
    for role in ("autocompress", "mlflow"):
        # As libpq's PGPASSFILE has it: any host, port and database.
        _keep(folder / f"{role}_pgpass", lambda role=role: f"*:*:*:{role}:{secrets.token_hex(32)}\n")
    _keep(folder / "mlflow_auth.ini", lambda: AUTH.format(password=(folder / "mlflow_password").read_text()))


def _keep(path: Path, make: Callable[[], str]) -> None:
    if path.exists():
        return
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(make())


if __name__ == "__main__":
    place = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("secrets")
    make_secrets(place)
    print(f"secrets are in {place}")
