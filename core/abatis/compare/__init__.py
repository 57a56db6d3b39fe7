"""``defense compare``: train what is missing, judge alike, one ranked table."""
