"""How many jobs ended in each hour, and how long they waited and ran: statistics that need not read every row."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make it."""
    is_postgres = op.get_bind().dialect.name == "postgresql"
    moment = "timestamptz" if is_postgres else "TEXT"
    op.execute(
        f"""
        CREATE TABLE rqueue_hours (
            span smallint NOT NULL,
            hour {moment} NOT NULL,
            task text NOT NULL,
            succeeded bigint NOT NULL,
            failed bigint NOT NULL,
            revoked bigint NOT NULL,
            waits text NOT NULL,
            runs text NOT NULL,
            PRIMARY KEY (span, hour, task)
        )
        """
    )
    op.execute(f"CREATE TABLE rqueue_marks (name varchar(64) NOT NULL PRIMARY KEY, at {moment} NOT NULL)")
    # Rows that were written late are found by it. BRIN: a few bytes for hundreds of rows that were written in a row.
    op.execute(f"CREATE INDEX rqueue_jobs_recorded ON rqueue_jobs {'USING brin' if is_postgres else ''} (recorded)")


def downgrade() -> None:
    """Remove it."""
    op.execute("DROP INDEX rqueue_jobs_recorded")
    op.execute("DROP TABLE rqueue_marks")
    op.execute("DROP TABLE rqueue_hours")
