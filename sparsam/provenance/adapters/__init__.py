"""Documents of other systems beside our own records: PROV-IO's Turtle, ProvLake's logs, and PROV in RDF or JSON.

:func:`sparsam.provenance.adapters.imported.keep` puts a document as it is into ``.sparsam/imported``; from there it is read
each time the graph is made, so that what was recorded and what was imported answer the same questions.
"""
