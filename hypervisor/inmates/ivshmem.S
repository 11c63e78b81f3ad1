# Shared memory inmate: finds the function at 00:0e.0, sets up both interrupts, says READY, and answers every doorbell
# (vector 1) with a doorbell to peer 0; state changes (vector 0) are printed.
.include "inmate.inc"

.set FUNCTION, 0x80007000               # enable, 00:0e.0
.set BAR0, 0xf0000000
.set BAR1, 0xf0001000
.set VECTOR, 0x50

# Configuration space: CONFIG_READ offset -> EAX, CONFIG_WRITE offset, EAX.
.macro CONFIG offset
    push eax
    mov dx, 0xcf8
    mov eax, FUNCTION + \offset
    out dx, eax
    mov dx, 0xcfc
    pop eax
.endm

.macro GATE vector, handler
    lea eax, [\handler]
    mov word ptr [idt + (\vector) * 8], ax
    mov dword ptr [idt + (\vector) * 8 + 2], 0x8e000000 + 0x08
    mov byte ptr [idt + (\vector) * 8 + 5], 0x8e
    shr eax, 16
    mov word ptr [idt + (\vector) * 8 + 6], ax
.endm

main:
    lea esi, [hello]
    call puts
    CONFIG 0x00
    in eax, dx
    call puthex
    cmp eax, 0x4106110a
    jne none
    GATE VECTOR, state_change
    GATE VECTOR + 1, doorbell
    lidt [idt_pointer]
    mov dword ptr [APIC + 0xf0], 0x1ff
    mov eax, BAR0
    CONFIG 0x10
    out dx, eax
    mov eax, BAR1
    CONFIG 0x14
    out dx, eax
    mov eax, 6                          # memory, master
    CONFIG 0x04
    out dx, eax
    mov ecx, [APIC + 0x20]              # APIC id, in bits 24..32
    shr ecx, 12
    and ecx, 0x000ff000
    or ecx, 0xfee00000
    mov [BAR1 + 0x00], ecx
    mov dword ptr [BAR1 + 0x08], VECTOR
    mov dword ptr [BAR1 + 0x0c], 0
    mov [BAR1 + 0x10], ecx
    mov dword ptr [BAR1 + 0x18], VECTOR + 1
    mov dword ptr [BAR1 + 0x1c], 0
    mov eax, 0x80000000                 # MSI-X on
    CONFIG 0x60
    out dx, eax
    mov dword ptr [BAR0 + 0x08], 1      # interrupts on
    mov dword ptr [BAR0 + 0x10], 2      # ready
    mov al, ' '
    call putc
    mov eax, [BAR0 + 0x00]
    call puthex
    mov al, 10
    call putc
    # a timer tick now and then, to look at messages
    GATE VECTOR + 2, tick
    mov dword ptr [APIC + 0x3e0], 3
    mov dword ptr [APIC + 0x320], 0x20000 + VECTOR + 2
    mov dword ptr [APIC + 0x380], 625000
    sti
0:  hlt
    call messages
    jmp 0b

none:
    lea esi, [absent]
    call puts
0:  hlt
    jmp 0b

tick:
    mov dword ptr [APIC + 0xb0], 0
    iretd

state_change:
    pusha
    lea esi, [text_state]
    call puts
    mov eax, [0x041ff000]               # state of peer 0
    call puthex
    mov al, 10
    call putc
    mov dword ptr [APIC + 0xb0], 0
    popa
    iretd

doorbell:
    pusha
    inc dword ptr [rings]
    lea esi, [text_ring]
    call puts
    mov eax, [rings]
    call puthex
    mov al, 10
    call putc
    mov dword ptr [BAR0 + 0x0c], 1      # peer 0, vector 1
    mov dword ptr [APIC + 0xb0], 0
    popa
    iretd

hello:      .asciz "ivshmem inmate: "
absent:     .asciz " absent\n"
text_state: .asciz "ivshmem inmate: state of peer 0: "
text_ring:  .asciz "ivshmem inmate: doorbell "
.balign 8
rings: .long 0
idt_pointer:
    .word 256 * 8 - 1
    .long idt
.balign 16
idt: .fill 256, 8, 0
