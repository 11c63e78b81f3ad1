# Timer inmate: starts the APIC timer, prints a line every tenth tick, answers messages.
.include "inmate.inc"

.set VECTOR, 0x40

main:
    lea esi, [hello]
    call puts
    # interrupt gate for the timer
    lea eax, [tick]
    mov word ptr [idt + VECTOR * 8], ax
    mov word ptr [idt + VECTOR * 8 + 2], 0x08
    mov word ptr [idt + VECTOR * 8 + 4], 0x8e00
    shr eax, 16
    mov word ptr [idt + VECTOR * 8 + 6], ax
    lidt [idt_pointer]
    mov dword ptr [APIC + 0xf0], 0x1ff          # on, spurious vector 0xff
    mov dword ptr [APIC + 0x3e0], 3             # divide by 16
    mov dword ptr [APIC + 0x320], 0x20000 + VECTOR
    mov dword ptr [APIC + 0x380], 6250000 / 10  # 100 Hz with a bus clock of 1 GHz
    sti
0:  hlt
    call messages
    mov eax, [ticks]
    cmp eax, [shown]
    jb 0b
    add dword ptr [shown], 50
    lea esi, [text]
    call puts
    call puthex
    mov al, 10
    call putc
    jmp 0b

tick:
    inc dword ptr [ticks]
    mov dword ptr [APIC + 0xb0], 0
    iretd

hello: .asciz "timer inmate: hello\n"
text:  .asciz "timer inmate: ticks "
.balign 8
ticks: .long 0
shown: .long 50
idt_pointer:
    .word 256 * 8 - 1
    .long idt
.balign 16
idt: .fill 256, 8, 0
