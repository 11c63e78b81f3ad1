# A neighbour: fills its memory with a pattern, and looks for ever whether it is still there. A line every 128 rounds.
.include "inmate.inc"

.set FIRST, 0x200000
.set LAST,  0x300000

main:
    lea esi, [hello]
    call puts
    mov edi, FIRST
0:  mov eax, edi
    imul eax, eax, 0x9e3779b1
    mov [edi], eax
    add edi, 4
    cmp edi, LAST
    jb 0b
round:
    mov edi, FIRST
0:  mov eax, edi
    imul eax, eax, 0x9e3779b1
    cmp [edi], eax
    jne changed
    add edi, 4
    cmp edi, LAST
    jb 0b
    call messages
    inc dword ptr [rounds]
    test dword ptr [rounds], 127
    jnz round
    lea esi, [text]
    call puts
    mov eax, [rounds]
    call puthex
    mov al, 10
    call putc
    jmp round
changed:
    lea esi, [bad]
    call puts
    mov eax, edi
    call puthex
    mov al, 10
    call putc
    mov dword ptr [COMM_STATE], 3               # failed
    cli
0:  hlt
    jmp 0b

hello: .asciz "guard inmate: hello\n"
text:  .asciz "guard inmate: unchanged after "
bad:   .asciz "guard inmate: memory changed at "
.balign 4
rounds: .long 0
