"""Prints a padded note, by a package that somebody else maintains."""

from leftpad import leftpad

print(leftpad("a note", 10))
