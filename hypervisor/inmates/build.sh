#!/bin/sh
# Builds the inmates as flat binaries for 0x100000: build.sh OUTPUT_DIRECTORY
set -e
here=$(dirname "$0")
mkdir -p "$1"
for source in "$here"/*.S; do
    name=$(basename "$source" .S)
    as --32 -I "$here" -o "$1/$name.o" "$source"
    ld -m elf_i386 -Ttext=0x100000 -e start --oformat binary -o "$1/$name.bin" "$1/$name.o"
    rm "$1/$name.o"
done
