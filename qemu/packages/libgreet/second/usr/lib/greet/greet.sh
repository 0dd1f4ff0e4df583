# The word, in the second version: another name, so that no program fits both.
greeting_to() { echo "hello $1 from libgreet 2"; }
