# QEMU's `edu` device at 00:1e.0, passed to the cell: finds it, looks at its registers, and takes a hundred interrupts from it.
.include "inmate.inc"

.set FUNCTION, 0x8000f000               # enable, 00:1e.0
.set VECTOR,   0x52

# Selects a word of the function's configuration space; EDX is the data port.
.macro select offset
    mov edx, 0xcf8
    mov eax, FUNCTION + \offset
    out dx, eax
    mov edx, 0xcfc
.endm

main:
    lea esi, [hello]
    call puts
    lea eax, [interrupt]
    mov word ptr [idt + VECTOR * 8], ax
    mov word ptr [idt + VECTOR * 8 + 2], 0x08
    mov word ptr [idt + VECTOR * 8 + 4], 0x8e00
    shr eax, 16
    mov word ptr [idt + VECTOR * 8 + 6], ax
    lidt [idt_pointer]
    mov dword ptr [APIC + 0xf0], 0x1ff
    select 0x00
    in eax, dx
    cmp eax, 0x11e81234
    jne none
    select 0x10                         # registers
    in eax, dx
    and eax, 0xfffffff0
    mov ebp, eax
    select 0x04
    mov eax, 0x406                      # memory, master, no INTx
    out dx, eax
    select 0x34                         # the MSI capability
    in eax, dx
    movzx ebx, al
0:  test ebx, ebx
    jz none
    mov edx, 0xcf8
    lea eax, [ebx + FUNCTION]
    out dx, eax
    mov edx, 0xcfc
    in eax, dx
    cmp al, 5
    je 1f
    movzx ebx, ah
    jmp 0b
1:  mov ecx, [APIC + 0x20]              # to this processor
    shr ecx, 12
    and ecx, 0x000ff000
    or ecx, 0xfee00000
    push eax
    lea esi, [ebx + 4]
    mov eax, ecx
    call config_write
    lea esi, [ebx + 8]
    xor eax, eax
    call config_write
    mov edx, 0xcf8                      # the data register has 16 bits
    lea eax, [ebx + FUNCTION + 12]
    out dx, eax
    mov edx, 0xcfc
    mov eax, VECTOR
    out dx, ax
    pop eax
    mov esi, ebx
    or eax, 0x10000                     # enable
    call config_write
    lea esi, [text_id]
    call puts
    mov eax, [ebp]
    call puthex
    mov al, 10
    call putc
    mov dword ptr [ebp + 4], 0x12345678 # answers with the complement
    mov eax, [ebp + 4]
    not eax
    cmp eax, 0x12345678
    jne none
    sti
    mov ebx, 100
2:  mov ecx, [count]
    mov dword ptr [ebp + 0x60], 1       # raise
3:  pause
    cmp [count], ecx
    je 3b
    dec ebx
    jnz 2b
    lea esi, [text]
    call puts
    mov eax, [count]
    call puthex
    mov al, 10
    call putc
4:  pause
    call messages
    jmp 4b
none:
    lea esi, [text_none]
    call puts
5:  pause
    call messages
    jmp 5b

# EAX to the word at offset ESI.
config_write:
    push eax
    lea eax, [esi + FUNCTION]
    mov edx, 0xcf8
    out dx, eax
    pop eax
    mov edx, 0xcfc
    out dx, eax
    ret

interrupt:
    push eax
    mov eax, [ebp + 0x24]
    mov [ebp + 0x64], eax               # acknowledge
    inc dword ptr [count]
    mov dword ptr [APIC + 0xb0], 0
    pop eax
    iretd

hello:     .asciz "edu inmate: hello\n"
text_id:   .asciz "edu inmate: id "
text:      .asciz "edu inmate: interrupts "
text_none: .asciz "edu inmate: no device\n"
.balign 4
count: .long 0
idt_pointer:
    .word 256 * 8 - 1
    .long idt
.balign 16
idt: .fill 256, 8, 0
