#!/bin/sh
# An nvcc that compiles nothing: the pretended driver does not look at its PTX, and whoever only checks types does not look at candle's.
echo 'Cuda compilation tools, release 13.0, V13.0.0'
while [ $# -gt 0 ]; do
    case $1 in
        -o) out=$2 ;;
        --output-directory) folder=$2 ;;
        *.cu) source=$1 ;;
    esac
    shift
done
if [ -n "$source" ]; then
    printf '// Cuda compilation tools, release 13.0, V13.0.0\n.version 9.0\n' > "${out:-$folder/$(basename "$source" .cu).ptx}"
elif [ -n "$out" ]; then
    : > "$out"
fi
