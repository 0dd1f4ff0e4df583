"""Bytes to fetch for an update: ours beside casync, RAUC, zchunk, xdelta3, zstd and bsdiff."""
