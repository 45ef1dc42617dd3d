"""The task whose call waits for an answer: what /proc says of it (`process`), its memory and its call site (`caller`)."""
