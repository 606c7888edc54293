"""The report: one HTML file with the tables, figures and decoded boards of a store."""
