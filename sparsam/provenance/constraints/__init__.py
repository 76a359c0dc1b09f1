"""Is a document of PROV valid? W3C PROV-CONSTRAINTS (Recommendation, 30 April 2013), for PROV-XML, PROV-JSON and PROV-O.

:func:`check_file` reads a document and checks each of its instances (the top level and every bundle) by itself: inference,
merging by keys, uniqueness, order of events, types, and what is impossible. The numbers are those of the Recommendation.
"""

from sparsam.provenance.constraints.checking import Report, check, check_file
from sparsam.provenance.constraints.instance import Finding
from sparsam.provenance.constraints.statements import FORMALS, Document, Statement

__all__ = ["FORMALS", "Document", "Finding", "Report", "Statement", "check", "check_file"]
