"""Folders, local or gs://, and checksums of the files in them."""
