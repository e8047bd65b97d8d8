"""The result store in PostgreSQL or SQLite, by SQLAlchemy: the extra ``sql``."""
