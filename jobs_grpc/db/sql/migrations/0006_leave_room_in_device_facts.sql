-- Leaves half of each page free: a bridge updates many rows of a page in one transaction, and with this room all of
-- these updates are HOT. Existing full pages gain room as their rows are updated.
ALTER TABLE jobs.device_facts SET (fillfactor = 50);
