# Instructions on emulated memory do what they do on memory: each is executed on the last bytes of the communication region, and
# again on the test device's register, which leads to the same bytes. Both times it finds the same registers and memory, and must leave
# the same. Prints those that do not, and how many there were.
.include "inmate.inc"

.set MEMORY,   COMM + 0x0ff8
.set REGISTER, COMM + 0x1ff8

# An instruction that finds the operand's address in EBX, and in EDI. Changes registers but ESP and EBP, flags, memory.
.macro same instruction:vararg
    inc dword ptr [count]
    once MEMORY, memory_left, \instruction
    once REGISTER, register_left, \instruction
    call compare
.endm

# What is left when it was executed on that address.
.macro once address, left, instruction:vararg
    mov ebx, \address
    call before
    \instruction
    call after
    mov ebp, offset \left
    call keep
.endm

# The same for addresses that are not in a register.
.macro absolute address
    mov eax, ds:[\address]
    mov ds:[\address + 4], ax
.endm

main:
    lea esi, [hello]
    call puts
    # moves
    same mov eax, [ebx]
    same mov ax, [ebx]
    same mov al, [ebx + 3]
    same mov dh, [ebx + 5]
    same mov ecx, [ebx + 4]
    same mov edx, [ebx + ecx*2]
    same mov [ebx], eax
    same mov [ebx + 2], ax
    same mov [ebx + 7], ch
    same mov byte ptr [ebx + 1], 0x5a
    same mov word ptr [ebx + 6], 0x9abc
    same mov dword ptr [ebx + 4], 0x89abcdef
    same movzx eax, byte ptr [ebx + 3]
    same movzx ax, byte ptr [ebx + 3]
    same movzx eax, word ptr [ebx + 6]
    same movsx eax, byte ptr [ebx + 3]
    same movsx cx, byte ptr [ebx + 3]
    same movsx edx, word ptr [ebx + 6]
    same .byte 0x66, 0x0f, 0xb7, 0x03           # movzx ax, word ptr [ebx]: a move of 16 bits
    same .byte 0x66, 0x8a, 0x03                 # mov al, [ebx] with an operand size that does not count
    same .byte 0x3e, 0x8b, 0x03                 # mov eax, ds:[ebx]
    same .byte 0x8b, 0x83, 4, 0, 0, 0           # mov eax, [ebx + 4] with a displacement of 32 bits
    same movnti [ebx], edx
    same xchg [ebx], eax
    same xchg [ebx + 2], cx
    same xchg [ebx + 5], dl
    same stosb
    same stosw
    same stosd
    same rep stosd
    # arithmetic
    same add [ebx], eax
    same add al, [ebx + 3]
    same or word ptr [ebx], 0x5555
    same adc [ebx + 4], edx
    same sbb eax, [ebx + 4]
    same and byte ptr [ebx], 0x0f
    same and dword ptr [ebx], -16
    same sub [ebx + 1], cl
    same xor [ebx], edx
    same cmp [ebx], eax
    same cmp byte ptr [ebx + 7], 0x80
    same cmp edx, [ebx + 4]
    same test [ebx], eax
    same test byte ptr [ebx + 3], 1
    same bt dword ptr [ebx], 31
    same bts dword ptr [ebx], 5
    same btr dword ptr [ebx + 4], 40
    same btc dword ptr [ebx + 4], 0
    same lock or dword ptr [ebx], 1
    inc dword ptr [count]
    once MEMORY, memory_left, absolute MEMORY
    once REGISTER, register_left, absolute REGISTER
    call compare
    lea esi, [end]
    call puts
    mov eax, [count]
    call puthex
    lea esi, [wrong]
    call puts
    mov eax, [failures]
    call puthex
    mov al, 10
    call putc
0:  pause
    call messages
    jmp 0b

# Memory, registers and flags as each instruction finds them. EDI = EBX.
before:
    mov dword ptr [MEMORY], 0xf7a5c381
    mov dword ptr [MEMORY + 4], 0x80127fff
    mov edi, ebx
    mov eax, 0x1357fdb9
    mov ecx, 2                                  # two words, for one that repeats
    mov edx, 0x8042c0de
    push 0x08d7                                 # all arithmetic flags
    popfd
    ret

# What the instruction left, to the buffer's registers. EDI counts from EBX.
after:
    mov [saved], eax
    pushfd
    pop dword ptr [saved + 4]
    mov [saved + 8], ecx
    mov [saved + 12], edx
    sub edi, ebx
    mov [saved + 16], edi
    ret

# Copies that, and the memory, to EBP.
keep:
    lea esi, [saved]
    mov edi, ebp
    mov ecx, 5
    rep movsd
    mov eax, [MEMORY]
    mov [ebp + 20], eax
    mov eax, [MEMORY + 4]
    mov [ebp + 24], eax
    ret

compare:
    lea esi, [memory_left]
    lea edi, [register_left]
    mov ecx, 7
    repe cmpsd
    je 1f
    inc dword ptr [failures]
    lea esi, [differs]
    call puts
    mov eax, [count]
    call puthex
    mov al, 10
    call putc
1:  ret

hello:   .asciz "moves inmate: hello\n"
differs: .asciz "moves inmate: differs, number "
end:     .asciz "moves inmate: instructions "
wrong:   .asciz " wrong "
.balign 8
count:    .long 0
failures: .long 0
saved:         .fill 7, 4, 0
memory_left:   .fill 7, 4, 0
register_left: .fill 7, 4, 0
