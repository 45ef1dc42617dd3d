"""What the pointers of calls point to: file names, addresses of sockets, the words of a command.  For people, never a rule."""
