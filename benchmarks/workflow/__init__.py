"""From tables to runs, and the runs themselves: planned, estimated, started in order, shown while they go on."""
