"""Comparisons, findings and changes -> text, JSON, Markdown and SARIF, and the questions of `review`."""
