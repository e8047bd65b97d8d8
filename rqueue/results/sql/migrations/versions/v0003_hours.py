"""How many jobs ended in each hour, and how long they waited and ran: statistics that need not read every row."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make it."""
    moment = "timestamptz" if op.get_bind().dialect.name == "postgresql" else "TEXT"
    op.execute(
        f"""
        CREATE TABLE rqueue_hours (
            hour {moment} NOT NULL,
            task text NOT NULL,
            succeeded bigint NOT NULL,
            failed bigint NOT NULL,
            revoked bigint NOT NULL,
            waits text NOT NULL,
            runs text NOT NULL,
            PRIMARY KEY (hour, task)
        )
        """
    )
    op.execute(f"CREATE TABLE rqueue_marks (name varchar(64) NOT NULL PRIMARY KEY, at {moment} NOT NULL)")


def downgrade() -> None:
    """Remove it."""
    op.execute("DROP TABLE rqueue_marks")
    op.execute("DROP TABLE rqueue_hours")
