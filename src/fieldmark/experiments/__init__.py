"""Published tables and the evidence as lists of runs; the demo; how the bundled model was trained."""
