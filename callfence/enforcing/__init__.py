"""What `enforce` composes: a command line (`command`) -> the policy's filter, perhaps from the cache (`filters`) ->
the confined program.
"""
