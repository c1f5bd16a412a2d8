"""ELVA's tables: worlds, rows as data, runs of a stage and its controls, what each embedder is measured by, reports."""
