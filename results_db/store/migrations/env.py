"""How Alembic reaches a store. `results_db.store.schema` passes a connection with an open transaction.

Alembic's own command uses the store that IMAGINE_DB names. After a change of the tables it drafts a migration:
`alembic revision --autogenerate -m "What changes"`. Migrations only lead forward.
"""

from alembic import context
from sqlalchemy import Connection

from results_db.store.address import locate
from results_db.store.engine import make_engine
from results_db.store.schema import VERSION_TABLE
from results_db.store.tables import METADATA


def migrate(connection: Connection) -> None:
    """Run the migrations in the connection's transaction, so that all of them apply or none."""
    context.configure(
        connection=connection,
        target_metadata=METADATA,
        version_table=VERSION_TABLE,
        render_as_batch=connection.dialect.name == "sqlite",
        transaction_per_migration=False,
    )
    with context.begin_transaction():
        context.run_migrations()


given: Connection | None = context.config.attributes.get("connection")
if given is not None:
    migrate(given)
else:
    with make_engine(locate(None).url).begin() as own:
        migrate(own)
