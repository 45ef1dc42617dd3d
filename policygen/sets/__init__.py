"""Policies and expressions as exact sets of calls (`algebra`, `region`) -> comparisons, joins, reductions, shortest
expressions.
"""
