"""The words of the graph: W3C PROV-O, and PROV-IO's classes and relations as a real extension of it.

``ontology.ttl`` beside this file declares each in OWL, ``shapes.ttl`` says in SHACL what a graph of ours looks like.
"""

PROV = "http://www.w3.org/ns/prov#"
IO = "urn:sparsam:provenance#"
RDF_TYPE = "http://www.w3.org/1999/02/22-rdf-syntax-ns#type"
RDFS = "http://www.w3.org/2000/01/rdf-schema#"
XSD = "http://www.w3.org/2001/XMLSchema#"
PREFIXES = {"prov": PROV, "io": IO, "xsd": XSD, "rdfs": RDFS}

OBJECT_CLASSES = {
    "directory": "Directory", "file": "File", "group": "Group", "dataset": "Dataset", "attribute": "Attribute",
    "datatype": "Datatype", "link": "Link",
}  # fmt: skip
"""Kind of an entity: its class, below io:DataObject, below prov:Entity."""
CALL_CLASSES = {
    "create": "Create", "open": "Open", "read": "Read", "write": "Write", "fsync": "Fsync", "rename": "Rename",
}  # fmt: skip
"""Kind of a call: its class, below io:Call, below prov:Activity."""
RELATIONS = {
    "create": "wasCreatedBy", "open": "wasOpenedBy", "read": "wasReadBy", "write": "wasWrittenBy", "fsync": "wasFlushedBy",
    "rename": "wasModifiedBy",
}  # fmt: skip
"""Kind of a call: what leads from a data object to it, below prov:wasInfluencedBy."""
AGENT_CLASSES = ("User", "Thread", "Program")
EXTENSIBLE_CLASSES = ("Type", "Configuration", "Metrics")


def prefixes() -> str:
    """The head of a query or a file in Turtle."""
    return "".join(f"PREFIX {name}: <{address}>\n" for name, address in PREFIXES.items())
