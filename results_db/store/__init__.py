"""The store in a database; `open_store` is the way in."""

from results_db.store.sql import open_store as open_store
