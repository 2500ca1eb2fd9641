"""Measure how much of the dense model's quality is kept, at how many bytes.

`methods` lists what is compared: CSR (`csr_methods`) and its `baselines`. `retrieval`, `cross_modal` and `labeled`
measure them on rows of the user, `tasks` on MTEB, whose models `mteb` makes of them. `results` and `plots` show the
figures, `leaderboard` submits them.
"""
