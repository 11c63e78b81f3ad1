# A kernel's file, as the boot protocol of Linux has it, whose kernel says what it was given: selectors and RSI at the 64-bit entry, what its processor
# notes of machine checks, the parameters byte by byte, and the first 16 bytes of the initial file system.
.intel_syntax noprefix

.set PREFERRED, 0x200000
.set SETUP,     2 * 512                         # the boot sector, and one more
.set ENTRY,     SETUP + 0x200
.set DUMPED,    0x1400                          # parameters, record and the start of the command line

.globl start
start:
    .org 0x1f1
    .byte 1                                     # sectors besides the first
    .org 0x1f4
    .long (end - start - SETUP + 15) / 16
    .org 0x1fe
    .word 0xaa55
    .byte 0xeb, header_end - header
header:
    .ascii "HdrS"
    .word 0x20c
    .org 0x211
    .byte 1                                     # loaded high
    .org 0x22c
    .long 0x7fffffff                            # last byte that the initial file system may have
    .long 0x200000                              # alignment
    .byte 1, 21                                 # can be moved; alignment again
    .word 1                                     # 64-bit entry
    .long 255                                   # longest command line
    .org 0x258
    .quad PREFERRED
    .long 0x100000                              # memory
header_end:

    .org ENTRY
.code64
    mov r12, rsi
    lea rsp, stack[rip]
    mov eax, cs
    call hex
    mov eax, ds
    call hex
    mov eax, ss
    call hex
    lea rax, start[rip + ENTRY]
    call hex
    mov rax, r12
    call hex
    mov ecx, 0x179                              # how many machine check banks
    rdmsr
    call hex
    mov eax, 10
    call putc
    mov rsi, r12
    mov ebx, DUMPED
    call dump
    mov esi, [r12 + 0x218]
    mov ebx, 16
    call dump
    lea rsi, done[rip]
0:  lodsb
    test al, al
    jz 1f
    call putc
    jmp 0b
1:  hlt
    jmp 1b

# EBX bytes at RSI, 32 a line.
dump:
    mov r13d, 32
0:
    lodsb
    ror eax, 8
    call digit
    call digit
    dec ebx
    jz 1f
    dec r13d
    jnz 0b
    mov eax, 10
    call putc
    jmp dump
1:  mov eax, 10
    jmp putc

# EAX as 8 hexadecimal digits, and a space.
hex:
    mov r13d, 8
0:  call digit
    dec r13d
    jnz 0b
    mov eax, ' '
    jmp putc

# The highest four bits of EAX, which it loses.
digit:
    rol eax, 4
    push rax
    and eax, 15
    add eax, '0'
    cmp eax, '9'
    jbe 0f
    add eax, 'a' - '9' - 1
0:  call putc
    pop rax
    and eax, -16
    ret

# Prints AL.
putc:
    movzx edi, al
    mov eax, 8
    vmmcall
    ret

done: .asciz "kernel: done\n"
.balign 16
.fill 256
stack:
end:
