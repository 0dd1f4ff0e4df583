"""The command line: argument parsing, output and exit codes; everything else is elsewhere."""
