"""Query, retrieve and store studies in a PACS (hospital image archive) by DIMSE or DICOMweb."""
