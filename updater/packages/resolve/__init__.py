"""Which versions of which packages: wants and offers in, one set or a reason out. Pure."""
