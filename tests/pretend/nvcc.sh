#!/bin/sh
# An nvcc that compiles nothing: the pretended driver does not look at its PTX.
while [ $# -gt 0 ]; do
    [ "$1" = -o ] && out=$2
    shift
done
printf '// Cuda compilation tools, release 13.0, V13.0.0\n.version 9.0\n' > "$out"
