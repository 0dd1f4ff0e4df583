"""The publisher's side of the repository: static files described by TUF metadata."""
