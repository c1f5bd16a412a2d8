"""How the bundled embedder was trained: taught to summarise, then ELVA's first two stages."""
