"""The publication's tables as lists of runs: what is run, what it costs, our figures beside the printed ones."""
