"""A policy's text -> `Policy` and the layout of its text (`parser`, `document`), and back (`printer`)."""
