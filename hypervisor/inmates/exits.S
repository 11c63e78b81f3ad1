# Makes VM exits of one kind: kind and number are patched at 0x100ff0 by whoever loads it. Says so and halts when it is done.
# 0 none (the loop alone), 1 CPUID, 2 hypercall, 3 PCI configuration read (two port accesses), 4 end of interrupt by the APIC's page,
# 5 doorbell to the peer's handler, one for each answer, by the shared memory device at 00:0d.0; 6 is that peer.
.include "inmate.inc"
.include "apic.inc"

.set FUNCTION, 0x80007000                       # enable, 00:0e.0
.set LINK,     0x80006800                       # 00:0d.0
.include "link.inc"
.set CONTROL,  BAR0 + 0x08
.set DOORBELL, BAR0 + 0x0c
.set ANSWERS,  0x52002000                       # output section of peer 0, which is rung
.set VECTOR,   0x50

main:
    mov ebp, [count]
    mov eax, [kind]
    jmp [table + eax * 4]
none:
    dec ebp
    jnz none
    jmp done
cpuid_exit:
    xor eax, eax
    cpuid
    dec ebp
    jnz cpuid_exit
    jmp done
hypercall:
    mov eax, 5
    mov edi, 4
    vmmcall
    dec ebp
    jnz hypercall
    jmp done
pci_read:
    mov edx, 0xcf8
    mov eax, FUNCTION
    out dx, eax
    mov edx, 0xcfc
    in eax, dx
    dec ebp
    jnz pci_read
    jmp done
end_of_interrupt:
    xor eax, eax
    mov ecx, APIC_EOI * 16
0:  mov [APIC + ecx], eax                       # by the instruction of apic_write: what decoding takes is in the figure
    dec ebp
    jnz 0b
    jmp done
doorbell:
    call open_link
0:  mov ebx, [ANSWERS]
    mov dword ptr [DOORBELL], 1                 # vector 1 of peer 0
1:  cmp [ANSWERS], ebx
    je 1b
    dec ebp
    jnz 0b
done:
    lea esi, [text]
    call puts
    cli
0:  hlt
    jmp 0b

listener:
    call open_link
    lea eax, [rung]
    mov ecx, VECTOR
    call gate
    lidt [idt_pointer]
    call apic_init
    call apic_id
    shl eax, 12
    or eax, 0xfee00000
    mov [BAR1 + 0x10], eax                      # vector 1: to this processor
    mov dword ptr [BAR1 + 0x14], 0
    mov dword ptr [BAR1 + 0x18], VECTOR
    mov dword ptr [BAR1 + 0x1c], 0
    mov dword ptr [CONTROL], 1
    lea esi, [listens]
    call puts
    sti
0:  jmp 0b
rung:
    inc dword ptr [ANSWERS]
    push eax
    push ecx
    jmp interrupt_end

text:    .asciz "exits inmate: done\n"
listens: .asciz "exits inmate: listens\n"
.balign 4
table: .long none, cpuid_exit, hypercall, pci_read, end_of_interrupt, doorbell, listener

.org 0xff0
kind:  .long 0
count: .long 1
.org 0x1000
