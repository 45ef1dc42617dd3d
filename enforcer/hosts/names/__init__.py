"""Names of hosts: the messages of name servers, the names that addresses have, and the resolver in the helper."""
