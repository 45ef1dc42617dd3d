"""The call site of a system call: the first caller outside of the C library, by the mappings and the stack, of 64-bit programs.

maps.py: what is mapped; tables.py: what a file says of its functions; callers.py: from a call to its callers; site.py: the
call site in words.
"""
