"""Events -> observations -> policy -> filter.  Pure: no process is touched here."""
