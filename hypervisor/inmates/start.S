# The start of the inmates in C.
.include "inmate.inc"
.globl main
