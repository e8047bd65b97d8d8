"""The outbox: jobs that were enqueued in a transaction of their caller's, until a relay has sent them."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make it."""
    is_postgres = op.get_bind().dialect.name == "postgresql"
    moment, data = ("timestamptz", "bytea") if is_postgres else ("TEXT", "BLOB")
    number = "bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY" if is_postgres else "INTEGER PRIMARY KEY AUTOINCREMENT"
    op.execute(
        f"""
        CREATE TABLE rqueue_outbox (
            seq {number},
            namespace text NOT NULL,
            job_id text NOT NULL,
            queue text NOT NULL,
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
    op.execute("CREATE INDEX rqueue_outbox_waiting ON rqueue_outbox (namespace, seq) WHERE batch IS NULL")
    op.execute("CREATE INDEX rqueue_outbox_batch ON rqueue_outbox (batch, seq) WHERE batch IS NOT NULL")
    op.execute("CREATE INDEX rqueue_outbox_marked ON rqueue_outbox (marked) WHERE marked IS NOT NULL")
    if is_postgres:
        # Told at commit, and once for a transaction, whatever it has enqueued; who listens looks into the table.
        op.execute(
            """
            CREATE FUNCTION rqueue_outbox_told() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN PERFORM pg_notify('rqueue_outbox', ''); RETURN NULL; END $$
            """
        )
        op.execute(
            """
            CREATE TRIGGER rqueue_outbox_told AFTER INSERT ON rqueue_outbox
            FOR EACH STATEMENT EXECUTE FUNCTION rqueue_outbox_told()
            """
        )


def downgrade() -> None:
    """Remove it, with all that it holds."""
    op.execute("DROP TABLE rqueue_outbox")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION rqueue_outbox_told()")
