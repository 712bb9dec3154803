"""What programs see of workers that die, freeze, are slow, or are cut off; with real processes and networks.

`ledger` keeps the outcome of each call, `deaths`, `slowness`, `cables` and `cancels` have the scenarios, and
`show` makes the tables.
"""
