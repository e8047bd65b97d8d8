"""What Alembic runs: the steps, on the connection that it is given."""

from alembic import context

from rqueue.results.sql.tables import metadata
from rqueue.results.sql.version import VERSION_TABLE

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, version_table=VERSION_TABLE)
with context.begin_transaction():
    context.run_migrations()
