-- Leaves room for all rows of a page at once, because a bridge reports for neighbors in one transaction: then all
-- updates are HOT, and the table keeps its size. Pages that are full already get the room when their rows move.
ALTER TABLE jobs.device_facts SET (fillfactor = 50);
