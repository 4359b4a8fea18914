"""The gate: from counts of good and bad answers to advance, hold, roll back or promote.

Pure: no I/O and no clock of its own. ``betting`` is the mathematics of one block, ``evidence`` the fold over blocks,
``verdict`` the words of a decision, ``decision`` the rule, ``replay`` the same rule over stored evidence.
"""
