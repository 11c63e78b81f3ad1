# What Rust's core library wants of its environment: bytes copied, set and compared; and the ends that never come.
.intel_syntax noprefix
.globl memcpy, memmove, memset, memcmp, bcmp, _Unwind_Resume, rust_eh_personality

memcpy:
memmove:
    push esi
    push edi
    mov edi, [esp + 12]
    mov esi, [esp + 16]
    mov ecx, [esp + 20]
    mov eax, edi
    cmp edi, esi
    ja 1f
    rep movsb
    jmp 2f
1:  lea edi, [edi + ecx - 1]                    # from the end: the target may begin inside of the source
    lea esi, [esi + ecx - 1]
    std
    rep movsb
    cld
2:  pop edi
    pop esi
    ret

memset:
    push edi
    mov edi, [esp + 8]
    mov eax, [esp + 12]
    mov ecx, [esp + 16]
    rep stosb
    mov eax, [esp + 8]
    pop edi
    ret

memcmp:
bcmp:
    push esi
    push edi
    mov esi, [esp + 12]
    mov edi, [esp + 16]
    mov ecx, [esp + 20]
    xor eax, eax
    cmp eax, eax                                # equal, if there is nothing
    repe cmpsb
    je 1f
    movzx eax, byte ptr [esi - 1]
    movzx ecx, byte ptr [edi - 1]
    sub eax, ecx
1:  pop edi
    pop esi
    ret

_Unwind_Resume:
rust_eh_personality:
    cli
    hlt
