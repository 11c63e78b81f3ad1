# Makes VM exits of one kind: kind and number are patched at 0x100ff0 by whoever loads it. Says so and halts when it is done.
# 0 none (the loop alone), 1 CPUID, 2 hypercall, 3 PCI configuration read (two port accesses), 4 end of interrupt by the APIC's page,
# 5 doorbell of the shared memory device at 00:0e.0, to vector 1 of peer 0.
.include "inmate.inc"

.set FUNCTION, 0x80007000                       # enable, 00:0e.0
.set BAR0,     0xf0000000
.set DOORBELL, BAR0 + 0x0c

main:
    mov edx, 0xcf8
    mov eax, FUNCTION + 0x10
    out dx, eax
    mov edx, 0xcfc
    mov eax, BAR0
    out dx, eax
    mov edx, 0xcf8
    mov eax, FUNCTION + 0x04
    out dx, eax
    mov edx, 0xcfc
    mov eax, 2                                  # memory
    out dx, eax
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
    mov dword ptr [APIC + 0xb0], 0
    dec ebp
    jnz end_of_interrupt
    jmp done
doorbell:
    mov dword ptr [DOORBELL], 1
    dec ebp
    jnz doorbell
done:
    lea esi, [text]
    call puts
    cli
0:  hlt
    jmp 0b

text: .asciz "exits inmate: done\n"
.balign 4
table: .long none, cpuid_exit, hypercall, pci_read, end_of_interrupt, doorbell

.org 0xff0
kind:  .long 0
count: .long 1
.org 0x1000
