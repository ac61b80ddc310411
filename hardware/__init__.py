"""What a machine does with this project: every section measures one part of the road and judges it."""
