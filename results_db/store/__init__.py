"""The store in a SQL database; `open_store` opens one."""

from results_db.store.sql import open_store as open_store
