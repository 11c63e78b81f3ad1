# Timer inmate: starts the APIC timer, sends itself an interrupt at each tick, prints a line every 50 ticks, answers messages.
.include "inmate.inc"
.include "apic.inc"

.set VECTOR, 0x40
.set OWN,    0x50

main:
    lea esi, [hello]
    call puts
    lea eax, [tick]
    mov ecx, VECTOR
    call gate
    lea eax, [own]
    mov ecx, OWN
    call gate
    lidt [idt_pointer]
    call apic_init
    mov eax, 3                                  # divide by 16
    mov ecx, APIC_DIVIDE
    call apic_write
    mov eax, 0x20000 + VECTOR                   # periodic
    mov ecx, APIC_TIMER
    call apic_write
    mov eax, 6250000 / 10                       # 100 Hz with a bus clock of 1 GHz
    mov ecx, APIC_COUNT
    call apic_write
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
    lea esi, [text_own]
    call puts
    mov eax, [owns]
    call puthex
    mov al, 10
    call putc
    jmp 0b

tick:
    push eax
    push ecx
    inc dword ptr [ticks]
    mov eax, 0x40000 + OWN                      # an interrupt to itself
    mov ecx, APIC_ICR
    cmp dword ptr [x2apic], 0
    je 1f
    mov eax, OWN
    mov ecx, APIC_SELF
1:  call apic_write
    jmp interrupt_end

own:
    push eax
    push ecx
    inc dword ptr [owns]
    jmp interrupt_end

hello: .asciz "timer inmate: hello\n"
text:  .asciz "timer inmate: ticks "
text_own: .asciz " own "
.balign 8
ticks: .long 0
owns:  .long 0
shown: .long 50
