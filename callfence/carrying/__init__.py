"""What `callfence carry` composes: policies carried from one architecture to another, and the report of what that took."""
