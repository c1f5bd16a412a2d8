"""Tables as data: rows in YAML that differ from a recipe, printed figures, costs, cells. Both publications' use it."""
