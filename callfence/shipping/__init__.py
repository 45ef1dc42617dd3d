"""`callfence ship`: records of `enforce --log` are read, counted, and sent to monitoring."""
