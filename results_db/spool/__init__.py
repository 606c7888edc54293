"""The spool: records and heartbeats in files beside the store, until the store has them."""
