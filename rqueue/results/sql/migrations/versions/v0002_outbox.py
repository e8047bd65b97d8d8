"""The outbox: jobs that were enqueued in a transaction of their caller's, until a relay has sent them."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make it."""
    is_postgres = op.get_bind().dialect.name == "postgresql"
    moment, data, flag = ("timestamptz", "bytea", "boolean") if is_postgres else ("TEXT", "BLOB", "BOOLEAN")
    number = "bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY" if is_postgres else "INTEGER PRIMARY KEY AUTOINCREMENT"
    op.execute(
        f"""
        CREATE TABLE rqueue_outbox (
            seq {number},
            job_id text NOT NULL,
            queue text NOT NULL,
            is_custom {flag} NOT NULL,
            level smallint NOT NULL,
            due text NOT NULL,
            message {data} NOT NULL,
            lock text NOT NULL,
            created {moment} NOT NULL,
            batch text,
            marked {moment}
        )
        """
    )
    op.execute("CREATE INDEX rqueue_outbox_batch ON rqueue_outbox (batch)")


def downgrade() -> None:
    """Remove it, with all that it holds."""
    op.execute("DROP TABLE rqueue_outbox")
