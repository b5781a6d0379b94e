"""The hub and the plain directory that can play it: listing, downloading and uploading files. It knows no model."""
