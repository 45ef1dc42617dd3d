"""Answer the calls that the filter did not allow (`answer`), and report them."""
