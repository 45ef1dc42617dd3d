"""What is dangerous in a policy: the catalogue, and the findings of `callfence lint`."""
