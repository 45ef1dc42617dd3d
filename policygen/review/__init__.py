"""Review the change between two versions of a policy: what a reviewer has to know (`judgement`), the changes to judge one by
one (`changes`), and where each rule comes from (`why`).
"""
