"""What commands do with the files and ports of a policy alone."""
