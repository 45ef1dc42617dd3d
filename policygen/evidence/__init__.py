"""What the pointers of calls point to: file names, addresses of sockets, the words of a command.  They are for people to read;
no rule is made from them."""
