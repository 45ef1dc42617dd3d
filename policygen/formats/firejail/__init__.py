"""firejail: lines of a profile, and from them."""
