"""How Alembic reaches a store. `results_db.store.schema` hands it a connection with an open transaction.

Called by Alembic's own command, to draft a migration after a change of the models, it takes IMAGINE_DB:
`alembic revision --autogenerate -m "What changes"`, with `script_location = results_db/store/migrations`.
"""

from alembic import context
from sqlalchemy import Connection

from results_db.store.address import locate
from results_db.store.engine import make_engine
from results_db.store.models import Base
from results_db.store.schema import VERSION_TABLE


def migrate(connection: Connection) -> None:
    """Runs the migrations inside the connection's transaction, so that a schema is there whole or not."""
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
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
