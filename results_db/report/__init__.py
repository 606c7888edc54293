"""The report: one HTML file with the tables, figures and pictures of a store."""
