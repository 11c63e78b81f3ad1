#!/bin/sh
# Builds the inmates as flat 32-bit binaries: build.sh OUTPUT_DIRECTORY
# They are linked at 0x100000, but for the reset code of the one that brings its own, and a kernel's file; those in Rust begin in start.S.
set -e
here=$(dirname "$0")
out=$1
target=i586-unknown-linux-gnu
mkdir -p "$out"
libraries=$(rustc --print sysroot)/lib/rustlib/$target/lib

# NAME ADDRESS OBJECT...
link() {
    name=$1 address=$2
    shift 2
    ld -m elf_i386 -z noexecstack --gc-sections -T "$here/inmate.ld" --defsym=base="$address" -o "$out/$name.elf" "$@"
    objcopy -O binary "$out/$name.elf" "$out/$name.bin"
}

for source in "$here"/*.S; do
    as --32 -I "$here" -o "$out/$(basename "$source" .S).o" "$source"
done
for source in "$here"/*.S; do
    name=$(basename "$source" .S)
    case $name in
    start | language) ;;
    flat32-reset) link "$name" 0xf0000 "$out/$name.o" ;;
    bzimage) link "$name" 0 "$out/$name.o" ;;
    *) link "$name" 0x100000 "$out/$name.o" ;;
    esac
done
for source in "$here"/*.rs; do
    name=$(basename "$source" .rs)
    case $name in inmate | link) continue ;; esac
    rustc --edition 2024 --target $target -D warnings -O -C panic=abort -C relocation-model=static --emit obj -o "$out/$name.o" "$source"
    start=$out/start.o
    [ "$name" = flat32 ] && start=
    link "$name" 0x100000 $start "$out/$name.o" "$out/language.o" "$libraries"/libcore-*.rlib "$libraries"/libcompiler_builtins-*.rlib
done
rm "$out"/*.o "$out"/*.elf
