# Two processors: the first wakes the other by INIT and start-up, then sends it a thousand interrupts and waits for each, by id and
# by shorthand. In between it tries the same with processors that are not the cell's, and nothing may come of that. At last it says what memory
# types processors find at their start, and after INIT and start-up.
.include "inmate.inc"
.include "apic.inc"

.set VECTOR,     0x51
.set TRAMPOLINE, 0x7000
.set STACK_2,    0x190000
.set FOREIGN,    0                              # Linux's boot processor: never another cell's

main:
    lea esi, [hello]
    call puts
    lea eax, [interrupt]
    mov ecx, VECTOR
    call gate
    lea esi, [trampoline]
    mov edi, TRAMPOLINE
    mov ecx, offset trampoline_end - trampoline
    rep movsb
    call apic_init
    xor edx, edx
    mov eax, 0xc4500                            # INIT, all but self
    call apic_send
    mov eax, 0xc4600 + TRAMPOLINE / 4096        # start-up
    call apic_send
0:  pause
    cmp dword ptr [alive], 1
    jne 0b
    lea esi, [second]
    call puts
    mov ebx, 500
1:  mov eax, 0xc4000 + VECTOR                   # all but self
    xor edx, edx
    call send_and_wait
    mov eax, 0x4000 + VECTOR                    # by id
    mov edx, [other]
    call send_and_wait
    mov edx, FOREIGN
    mov eax, 0x4000 + VECTOR
    call apic_send
    mov eax, 0x4400                             # NMI
    call apic_send
    mov eax, 0x4500                             # INIT
    call apic_send
    mov eax, 0x4600 + TRAMPOLINE / 4096
    call apic_send
    dec ebx
    jnz 1b
    lea esi, [text]
    call puts
    mov eax, [count]
    call puthex
    mov al, 10
    call putc
    # A second INIT and start-up: it comes in once more.
    xor edx, edx
    mov eax, 0xc4500
    call apic_send
    mov eax, 0xc4600 + TRAMPOLINE / 4096
    call apic_send
2:  pause
    cmp dword ptr [alive], 2
    jne 2b
    lea esi, [again]
    call puts
    # The first has its memory types still as it left them, and the second, as an INIT does not change them.
    lea esi, [types]
    call puts
    mov eax, [found]
    call puthex
    mov al, ' '
    call putc
    mov ecx, 0x2ff
    rdmsr
    call puthex
    mov al, ' '
    call putc
    mov eax, [types_2]
    call puthex
    mov al, ' '
    call putc
    mov eax, [pat_2]
    call puthex
    mov al, 10
    call putc
3:  pause
    call messages
    jmp 3b

send_and_wait:
    mov ebp, [count]
    call apic_send
0:  pause
    cmp [count], ebp
    je 0b
    ret

interrupt:
    push eax
    push ecx
    inc dword ptr [count]
    jmp interrupt_end

protected_2:
    mov ax, 0x10
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov esp, STACK_2
    lidt [idt_pointer]
    mov ecx, 0x2ff                              # as they are, then others for the next time
    rdmsr
    mov [types_2], eax
    or ah, 8
    wrmsr
    mov ecx, 0x277
    rdmsr
    mov [pat_2], eax
    mov eax, 0x06060606
    mov edx, eax
    wrmsr
    call apic_init
    call apic_id
    mov [other], eax
    inc dword ptr [alive]
    sti
0:  hlt
    jmp 0b

# Copied to where the start-up vector points: real mode, CS is that page.
.code16
trampoline:
    .byte 0x66, 0x2e, 0x0f, 0x01, 0x16          # lgdt (32-bit) cs:[...]
    .word gdt_pointer_2 - trampoline
    mov eax, 0x11
    mov cr0, eax
    .byte 0x66, 0xea                            # jmp far 32
    .long protected_2
    .word 0x08
gdt_pointer_2:
    .word 3 * 8 - 1
    .long gdt
trampoline_end:
.code32

hello:  .asciz "smp inmate: hello\n"
second: .asciz "smp inmate: the second processor is there\n"
text:   .asciz "smp inmate: interrupts "
again:  .asciz "smp inmate: the second processor is there again\n"
types:  .asciz "smp inmate: memory types "
.balign 4
alive: .long 0
other: .long 0
count: .long 0
types_2: .long 0
pat_2: .long 0
