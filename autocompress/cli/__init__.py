"""The command line: `autocompress run`, `resume`, `status`, `trials`, `best`."""
