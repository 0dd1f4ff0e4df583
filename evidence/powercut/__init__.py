"""Power cut at every write: recorded in QEMU, replayed in every order that a disk may choose."""
