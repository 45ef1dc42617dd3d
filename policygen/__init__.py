"""Events -> observations -> policy -> filter.  Everything here is a pure function: it touches no process."""
