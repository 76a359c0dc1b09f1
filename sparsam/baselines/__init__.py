"""What a compressed model is raced against: other ways to serve the dense checkpoint it came from, each in its own process.

    python -m sparsam.baselines SPEC.json            # takes part in a race; see sparsam.clock
    python -m sparsam.baselines SPEC.json export     # makes the models that this contestant needs, and ends

``peers.PEERS`` is the table. The work of a round is every row, batch by batch in the order of its lap, padding included.
Importing this package imports nothing, so that a contestant's process can be kept offline before its libraries come.
"""
