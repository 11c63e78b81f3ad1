# The reset code of the 32-bit flat inmate: at f000:0000, sets the stack at 0xe0000 and jumps to 0x10000c with selector 8.
# What it found is left below the stack, for the inmate to look at.
.intel_syntax noprefix

.set ENTRY, 0x10000c
.set STACK, 0xe0000
.set FOUND, 0xe0000

.code16
.globl start
start:
    .byte 0xe8, 0, 0                            # call: pushes the address of what follows, below 0x10000 of segment 0
    pop dx
    mov bx, cs
    mov ecx, cr0
    .byte 0x66, 0x2e, 0x0f, 0x01, 0x16          # lgdt (32-bit) cs:[...]
    .word gdt_pointer - start
    mov eax, 0x11                               # PE, ET; caches on
    mov cr0, eax
    .byte 0x66, 0xea                            # jmp far 32
    .long protected
    .word 0x08

.balign 8
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff
    .quad 0x00cf93000000ffff
gdt_pointer:
    .word . - gdt - 1
    .long gdt

.code32
protected:
    mov ax, 0x10
    mov ds, ax
    mov es, ax
    mov fs, ax
    mov gs, ax
    mov ss, ax
    mov esp, STACK
    mov [FOUND], dx                             # 3: the offset of the second instruction
    mov [FOUND + 2], bx                         # code selector
    mov [FOUND + 4], ecx                        # CR0
    mov eax, ENTRY
    jmp eax
