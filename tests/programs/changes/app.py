"""Prints a padded note, with a package of another maintainer."""

from leftpad import leftpad

print(leftpad("a note", 10))
