"""Side by side with peers and floors: ratios within one run, medians of pairs."""
