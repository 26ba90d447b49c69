"""Raw sources: which files a source names, and the documents in them."""
