"""A report as one page of HTML that opens from disk: everything is in it, and nothing is fetched."""
