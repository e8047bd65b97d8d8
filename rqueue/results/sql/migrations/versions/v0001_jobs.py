"""The table of jobs: in PostgreSQL by month of their enqueue, so that old months go at once."""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# Words are what is left where signs are spaces: PostgreSQL's own parser takes addresses, paths and numbers apart its way.
_SIGNS = r"""!"#$%&''()*+,-./:;<=>?@[\]^`{|}~"""
_TEXT = "coalesce(task, '') || ' ' || coalesce(args::text, '') || ' ' || coalesce(kwargs::text, '') || ' ' || coalesce(error, '')"
_WORDS = f"to_tsvector('simple', translate(left({_TEXT}, 10000), '{_SIGNS}', '{' ' * 32}'))"


def upgrade() -> None:
    """Make it."""
    is_postgres = op.get_bind().dialect.name == "postgresql"
    moment, json = ("timestamptz", "json") if is_postgres else ("TEXT", "TEXT")
    words = f", words tsvector GENERATED ALWAYS AS ({_WORDS}) STORED" if is_postgres else ""
    partitions = "PARTITION BY RANGE (enqueued)" if is_postgres else "WITHOUT ROWID"
    op.execute(
        f"""
        CREATE TABLE rqueue_jobs (
            id text NOT NULL,
            enqueued {moment} NOT NULL,
            task text,
            queue text NOT NULL,
            priority smallint,
            state text NOT NULL,
            args {json},
            kwargs {json},
            result {json},
            error text,
            traceback text,
            attempts integer NOT NULL,
            losses integer NOT NULL,
            worker text,
            parent_id text,
            root_id text,
            started {moment},
            finished {moment} NOT NULL,
            wait_ms bigint,
            run_ms bigint,
            history {json},
            recorded {moment} NOT NULL
            {words},
            PRIMARY KEY (id, enqueued)
        ) {partitions}
        """
    )
    if is_postgres:
        op.execute("CREATE TABLE rqueue_jobs_other PARTITION OF rqueue_jobs DEFAULT")
        op.execute("CREATE INDEX rqueue_jobs_words ON rqueue_jobs USING gin (words)")
    for name, columns, condition in (
        ("finished", "finished, id", ""),
        ("task", "task, finished, id", ""),
        ("queue", "queue, finished, id", ""),
        ("state", "state, finished, id", "WHERE state <> 'SUCCESS'"),
        ("parent", "parent_id", "WHERE parent_id IS NOT NULL"),
    ):
        op.execute(f"CREATE INDEX rqueue_jobs_{name} ON rqueue_jobs ({columns}) {condition}")


def downgrade() -> None:
    """Remove it, with all that it holds."""
    op.execute("DROP TABLE rqueue_jobs")
