"""The folder beside a store, which workers write and `results_db` tidies: see `results_db.files`."""

from results_db.files import Files, last_lines, write_atomically

__all__ = ["Files", "last_lines", "write_atomically"]
