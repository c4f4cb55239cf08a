"""``medgen serve``: conversions over HTTP, for this machine or, with a token, for a department."""
