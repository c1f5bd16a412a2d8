"""Fieldguide: a procedural field guide of birds, with exact attributes and part masks for every picture."""
