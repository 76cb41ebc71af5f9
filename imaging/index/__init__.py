"""Study, series and instance rows in MongoDB. The only user of pymongo for images.

A row's identity begins with its owner, the organisation whose credential stored it: two facilities' copies of one UID are
two rows. The file is kept first, the row second.
"""

from imaging.index.deciding import NEW, OTHER, PATIENT, REPLACED, SAME
from imaging.index.reading import HEARD
from imaging.index.rows import Row, Stored, linked, told
from imaging.index.writing import Index, Received

__all__ = ["HEARD", "NEW", "OTHER", "PATIENT", "REPLACED", "SAME", "Index", "Received", "Row", "Stored", "linked", "told"]
