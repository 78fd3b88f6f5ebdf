"""Questions to the store, one .sql file each."""
