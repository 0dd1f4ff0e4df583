"""Where code and tables of executables hold addresses, by machine, and how these are changed."""
