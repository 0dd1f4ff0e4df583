# The word, in the first version of this library.
greeting() { echo "hello from libgreet 1"; }
