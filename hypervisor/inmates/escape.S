# Tries to get out of its cell, in one way at a time: number, seed and count are patched at 0x100ff0 by whoever loads it.
# Faults of single instructions are survived and counted, so that "refused with a fault" and "stopped" can be told apart.
# It ends with "survived", and the numbers of undefined-opcode and general-protection faults it met.
.include "inmate.inc"

.set OUTSIDE,   0x30000000      # not in the cell
.set MMCONFIG,  0xb0000000
.set LINK,      0x80007000      # configuration address of 00:0e.0
.include "link.inc"

# Executes the instruction given; goes on behind it even if it faults.
.macro try instruction:vararg
    mov dword ptr [recover], offset 771f
    \instruction
771:
.endm

.macro gate vector, handler
    lea eax, [\handler]
    mov word ptr [idt + \vector * 8], ax
    mov word ptr [idt + \vector * 8 + 2], 0x08
    mov word ptr [idt + \vector * 8 + 4], 0x8e00
    shr eax, 16
    mov word ptr [idt + \vector * 8 + 6], ax
.endm

main:
    gate 2, nmi
    gate 6, undefined
    gate 13, protection
    lidt [idt_pointer]
    lea esi, [hello]
    call puts
    movzx eax, byte ptr [number]
    call puthex
    mov al, 10
    call putc
    movzx eax, byte ptr [number]
    cmp eax, (table_end - table) / 4
    jae survived
    jmp [table + eax * 4]

# ---- memory ----
read_outside:
    mov eax, [OUTSIDE]
    jmp survived
write_state_table:
    mov dword ptr [0x041ff000], 1
    jmp survived
write_output_of_linux:
    mov dword ptr [0x14200000], 1
    jmp survived
execute_outside:
    mov eax, OUTSIDE
    jmp eax
walk_outside:
    mov eax, OUTSIDE
    mov cr3, eax
    mov eax, cr0
    or eax, 0x80000000
    mov cr0, eax
    jmp survived
write_ioapic:
    mov dword ptr [0xfec00000], 0x10
    jmp survived
write_hpet:
    mov dword ptr [0xfed00010], 0
    jmp survived
write_hypervisor:
    mov dword ptr [0x50000000], 0
    jmp survived
unknown_instruction:
    fld dword ptr [MMCONFIG]
    jmp survived

# ---- ports ----
port:
    mov dx, 0x604
    mov ax, 0x3400
    out dx, ax
    jmp survived
port_string:
    mov dx, 0x3f8
    lea esi, [hello]
    outsb
    jmp survived
port_straddles:
    mov dx, 0xcf6
    in eax, dx
    jmp survived
keyboard_reset:
    in al, 0x64                                 # the cell's own
    mov al, 0xae                                # so is this command: the keyboard is enabled
    out 0x64, al
    mov al, 0xfe                                # but this one resets the machine
    out 0x64, al
    jmp survived

# ---- instructions ----
triple_fault:
    mov dword ptr [idt + 6 * 8 + 4], 0          # nobody to take it
    mov dword ptr [idt + 13 * 8 + 4], 0
    mov dword ptr [idt + 8 * 8 + 4], 0
    ud2
virtualisation:
    xor eax, eax
    xor ecx, ecx
    try vmrun
    try vmload
    try vmsave
    try clgi
    try stgi
    try skinit
    try invlpga
    jmp survived
sleep_forever:
    call alive_line
    cli
0:  hlt
    jmp 0b
cpuids:
    mov edi, [count]
0:  call random
    mov ecx, eax
    call random
    test edi, 1
    jz 1f
    and eax, 0xc000001f
1:  cpuid
    dec edi
    jnz 0b
    jmp survived
control_registers:
    mov edi, 31
    mov ebx, cr4
0:  mov eax, 1                                  # each bit of CR4 that there is, but PAE: without tables it is our own affair
    mov ecx, edi
    shl eax, cl
    test eax, 0x003507df
    jz 1f
    or eax, ebx
    try mov cr4, eax
    mov cr4, ebx
1:  dec edi
    jns 0b
    mov ebx, cr0                                # caches: on, off, and what cannot be
    mov eax, 0x60000011
    try mov cr0, eax
    mov eax, 0x40000011
    try mov cr0, eax
    mov cr0, ebx
    mov eax, cr4                                # XCR0: nothing, too much, an index that is none
    or eax, 1 << 18
    try mov cr4, eax
    xor eax, eax
    xor ecx, ecx
    xor edx, edx
    try xsetbv
    mov eax, 0xffffffff
    mov edx, eax
    try xsetbv
    mov eax, 1
    xor edx, edx
    mov ecx, 0x7fffffff
    try xsetbv
    mov eax, 0xfffffbff                         # debug registers: everything but general detect (bit 13) and enables
    and eax, 0xffffd400
    try mov dr7, eax
    mov eax, 0x400
    mov dr7, eax
    jmp survived

caches_impossible:
    mov eax, 0x20000011
    mov cr0, eax
    jmp survived

# ---- registers: reads all that there are, and writes what is not our own business ----
msrs:
    xor ebx, ebx
0:  mov ecx, ebx
    call msr
    lea ecx, [ebx + 0xc0000000]
    call msr
    lea ecx, [ebx + 0xc0010000]
    call msr
    inc ebx
    cmp ebx, 0x2000
    jb 0b
    jmp survived
msr:
    try rdmsr
    cmp ecx, 0x830                              # the interrupt command has its own case
    je 1f
    cmp ecx, 0x82f                              # local vectors: forbidden modes stop the cell
    jb 0f
    cmp ecx, 0x837
    jbe 1f
0:  push ecx
    call random
    mov esi, eax
    call random
    mov edx, esi
    pop ecx
    try wrmsr
1:  ret

# ---- hypercalls ----
hypercalls:
    mov ebx, [count]
0:  call random
    mov edi, eax
    call random
    mov esi, eax
    call random
    mov ecx, ebx
    and ecx, 3
    jz 1f
    and eax, 0x10f                              # numbers that mean something, mostly
1:  cmp eax, 8                                  # not the console: it would bury the verdict
    je 0b
    vmmcall
    dec ebx
    jnz 0b
    jmp survived

# ---- interrupts ----
init_others:
    mov dword ptr [APIC + 0x310], 0
    mov dword ptr [APIC + 0x300], 0xc4500       # INIT, all but self
    jmp survived
nmi_others:
    mov dword ptr [APIC + 0x310], 0
    mov dword ptr [APIC + 0x300], 0x4400        # NMI to APIC id 0
    jmp survived
smi:
    mov dword ptr [APIC + 0x300], 0x84200       # SMI, all
    jmp survived
vector_smi:
    mov dword ptr [APIC + 0x350], 0x200         # local vector: SMI
    jmp survived
interrupts:
    mov ebx, [count]
0:  call random
    and eax, 0xff000000
    mov esi, eax
    shr eax, 24
    cmp eax, 3                                  # to others, not to us
    je 2f
    cmp eax, 0xff
    je 2f
    mov dword ptr [APIC + 0x310], esi
    call random
    mov edx, eax
    and edx, 7
    movzx edx, byte ptr [modes + edx]
    shl edx, 8
    and eax, 0xf0ff                             # physical destination, any trigger, any vector
    or eax, edx
    mov dword ptr [APIC + 0x300], eax
2:  dec ebx
    jnz 0b
    jmp survived
modes: .byte 0, 1, 4, 5, 6, 0, 5, 6
logical:
    mov ebx, 255                                # pose as every logical id, and write to all
0:  mov eax, ebx
    shl eax, 24
    mov dword ptr [APIC + 0xd0], eax
    mov dword ptr [APIC + 0xe0], eax
    mov dword ptr [APIC + 0x20], eax            # and as another CPU
    mov dword ptr [APIC + 0x310], 0x07000000
    mov dword ptr [APIC + 0x300], 0x48fd        # fixed, logical, vector 0xfd
    dec ebx
    jnz 0b
    jmp survived
registers:
    mov ebx, [count]
0:  call random
    and eax, 0x3f                               # any register, but those that send
    cmp eax, 0x2f
    jb 1f
    cmp eax, 0x37
    jbe 2f
1:  shl eax, 4
    mov esi, eax
    call random
    mov [APIC + esi], eax
2:  dec ebx
    jnz 0b
    jmp survived
apic_base:
    mov ecx, 0x1b
    rdmsr
    mov ebx, eax
    and eax, 0x7ff                              # off
    try wrmsr
    mov eax, ebx
    add eax, 0x1000                             # elsewhere
    try wrmsr
    jmp survived

# ---- PCI ----
pci_ports:
    mov ebx, 0x80000000
0:  mov edx, 0xcf8
    mov eax, ebx
    out dx, eax
    call random
    mov edx, 0xcfc
    out dx, eax
    add ebx, 4
    test ebx, 0x3c
    jnz 0b
    add ebx, 0xc0                               # 16 words of every function of bus 0
    cmp ebx, 0x80010000
    jb 0b
    jmp survived
pci_memory:
    mov ebx, MMCONFIG
0:  call random
    mov [ebx + 0x04], ax
    mov [ebx + 0x10], eax
    mov [ebx + 0x3c], al
    mov [ebx + 0x54], eax
    add ebx, 0x1000
    cmp ebx, MMCONFIG + 0x100000
    jb 0b
    jmp survived

# ---- the shared memory device ----
link:
    call open_link
    mov ebx, [count]
0:  call random
    mov esi, eax
    and esi, 0x101c                             # a register of either page
    test ebx, 3
    jnz 1f
    mov esi, eax
    and esi, 0x1fff                             # or anywhere
    cmp esi, 0x1ff8
    ja 3f
1:  call random
    test ebx, 4
    jz 2f
    and eax, 0x10001                            # peers and vectors that there are
2:  mov [BAR0 + esi], eax
    mov ecx, [BAR0 + esi]
    mov [BAR0 + esi], al
    mov [BAR0 + esi], ax
3:  dec ebx
    jnz 0b
    jmp survived
# ---- the communication region ----
states:
    mov ebx, [count]
0:  call random
    test ebx, 1
    jz 1f
    and eax, 1
1:  mov [COMM_STATE], eax
    call random
    mov [COMM_REPLY], eax
    mov [COMM_MESSAGE], eax
    mov [COMM_PM_TIMER], eax
    dec ebx
    jnz 0b
    mov dword ptr [COMM_STATE], 0
    mov dword ptr [COMM_MESSAGE], 0
    mov dword ptr [COMM_REPLY], 0
    jmp survived
state_garbage:
    mov dword ptr [COMM_STATE], 0x12345678
    jmp survived

survived:
    call alive_line
0:  pause
    call messages
    jmp 0b

alive_line:
    lea esi, [alive]
    call puts
    mov eax, [undefined_count]
    call puthex
    mov al, ' '
    call putc
    mov eax, [protection_count]
    call puthex
    mov al, 10
    jmp putc

nmi:
    iretd
undefined:
    inc dword ptr [undefined_count]
    push eax
    mov eax, [recover]
    mov [esp + 4], eax
    pop eax
    iretd
protection:
    inc dword ptr [protection_count]
    push eax
    mov eax, [recover]
    mov [esp + 8], eax
    pop eax
    add esp, 4
    iretd

# xorshift, in EAX.
random:
    push edx
    mov eax, [seed]
    mov edx, eax
    shl edx, 13
    xor eax, edx
    mov edx, eax
    shr edx, 17
    xor eax, edx
    mov edx, eax
    shl edx, 5
    xor eax, edx
    mov [seed], eax
    pop edx
    ret

hello: .asciz "escape inmate: "
alive: .asciz "escape inmate: survived "
.balign 4
recover: .long 0
undefined_count: .long 0
protection_count: .long 0
idt_pointer:
    .word 32 * 8 - 1
    .long idt
table:
    .long read_outside, write_state_table, write_output_of_linux, execute_outside, walk_outside         # 0
    .long write_ioapic, write_hpet, write_hypervisor, unknown_instruction                               # 5
    .long port, port_string, port_straddles                                                             # 9
    .long triple_fault, virtualisation, sleep_forever, cpuids, control_registers, msrs, hypercalls      # 12
    .long init_others, nmi_others, smi, vector_smi, interrupts, logical, apic_base                      # 19
    .long pci_ports, pci_memory, link, states, state_garbage, caches_impossible, registers              # 26
    .long keyboard_reset                                                                                # 33
table_end:
.balign 16
idt: .fill 32, 8, 0

.org 0xff0
number: .long 0
seed:   .long 0x2545f491
count:  .long 1000
.org 0x1000
