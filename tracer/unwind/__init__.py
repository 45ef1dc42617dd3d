"""What is mapped and what is on a stack -> who made a call (x86_64).  Memory comes from whoever may read it."""
