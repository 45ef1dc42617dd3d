"""minijail's policies -> policies, and back."""
