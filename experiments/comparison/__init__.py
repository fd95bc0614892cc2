"""Methods compared over games and seeds: the table of finished runs, statistics, pictures."""
