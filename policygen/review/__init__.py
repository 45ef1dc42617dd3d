"""Two versions of a policy -> what a reviewer is to know (`judgement`) and judges one by one (`changes`); why a rule is there
(`why`).
"""
