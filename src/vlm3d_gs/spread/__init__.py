"""One run by several processes, each with a card or a share of the cores: views, chains and pictures are divided.

Every process has the whole scene and the same random streams, and takes every step. What costs time is divided by rows:
`renderer` divides views, `networks` pictures of the prior and scenes that the critic compares. Each process computes
its rows and gets those of the others, so from there on all know the same numbers, and the loops know nothing of it.
"""
