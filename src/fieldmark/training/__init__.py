"""Training: one readable file per method, and what the methods share.

Shared parts: `optimiser` (parameter groups, schedule, clipping), `checkpoint` (bit-exact resume),
`run_folder` (what a run stores about itself) and `log` (figures, phase times, progress). Nothing here imports
an index, a server or a command-line library.
"""
