"""Alembic's way into the service's tables: the connection, and its transaction, are those of who upgrades."""

from alembic import context

from autocompress.service.database import VERSIONS, Base

context.configure(
    connection=context.config.attributes["connection"], target_metadata=Base.metadata, version_table=VERSIONS
)
with context.begin_transaction():
    context.run_migrations()
