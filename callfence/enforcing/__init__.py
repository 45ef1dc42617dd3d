"""The command `enforce`: a command line (`command`) -> the policy's filter, from the cache if possible (`filters`) -> the
confined program.
"""
