# The start of the inmates in Rust.
.include "inmate.inc"
.globl main
