"""`python -m phases` in bench/ prints this part alone."""

from __future__ import annotations

from harness import table

from phases import section

made = section()
print(made.text)
print(table(("figure", "goal", "measured", "kept"), [figure.row() for figure in made.figures]))
