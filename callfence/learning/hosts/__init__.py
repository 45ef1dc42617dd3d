"""What `learn --hosts` records: whom a program talks to, by the names that it looked up."""
