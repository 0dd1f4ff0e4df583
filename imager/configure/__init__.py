"""What Debian's maintainer scripts would do at installation, done to a tree: nothing runs."""
