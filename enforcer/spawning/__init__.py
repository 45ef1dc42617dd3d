"""Start commands for clients: a server that is loaded once, and for each command a process of it that becomes the command's
helper.  The client itself becomes the program (docs/spawn.md)."""
