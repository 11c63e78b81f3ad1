# Commits one crime, chosen by the byte at `crime` (patched at 0x100ff0 by whoever loads it): the verdict must be on this
# cell only. 0 memory outside, 1 write to the state table, 2 port, 3 MSR write (gets #GP, which is a triple fault here),
# 4 triple fault, 5 INIT to all, 6 NMI to CPU 0, 7 fetch outside, 8 garbage hypercalls, 9 vmrun, 10 SMI.
.include "inmate.inc"

main:
    movzx eax, byte ptr [0x100ff0]
    lea esi, [hello]
    call puts
    call puthex
    push eax
    mov al, 10
    call putc
    pop eax
    jmp [table + eax * 4]

c0: mov eax, [0x30000000]
    jmp survived
c1: mov dword ptr [0x041ff000], 1
    jmp survived
c2: mov dx, 0x604
    mov ax, 0x3400
    out dx, ax
    jmp survived
c3: mov ecx, 0xc0010117
    wrmsr
    jmp survived
c4: ud2
c5: mov dword ptr [APIC + 0x310], 0
    mov dword ptr [APIC + 0x300], 0xc4500       # INIT, all but self
    jmp survived
c6: mov dword ptr [APIC + 0x310], 0
    mov dword ptr [APIC + 0x300], 0x4400        # NMI to APIC id 0
    jmp survived
c7: mov eax, 0x30000000
    jmp eax
c8: mov ebx, 100
0:  mov eax, ebx
    mov edi, 0xfee00000
    mov esi, 0xffffffff
    vmmcall
    dec ebx
    jns 0b
    jmp survived
c9: xor eax, eax
    vmrun
    jmp survived
c10:
    mov dword ptr [APIC + 0x300], 0x84200       # SMI, all
    jmp survived

survived:
    lea esi, [alive]
    call puts
0:  pause
    call messages
    jmp 0b

hello: .asciz "crime inmate: "
alive: .asciz "crime inmate: survived\n"
.balign 4
table: .long c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10

.org 0xff0
    .byte 0
.org 0x1000
