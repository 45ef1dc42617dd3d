"""`callfence-sh`: a shell that learns or enforces the policy of the package whose command it runs."""
