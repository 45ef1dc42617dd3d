"""`callfence service`: units of systemd, from learned to audited and enforced."""
