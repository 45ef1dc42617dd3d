"""Calls that the filter did not allow -> their answers (`answer`) and reports."""
