"""Builds feature packages: content, checks, erofs image, publisher's signature, one .opk file."""
