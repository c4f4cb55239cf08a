"""Archives of a hospital (PACS): studies found and retrieved, series stored, by classic DICOM or DICOMweb."""
