//! The PVH entry (32-bit protected mode, paging off), and the way into long mode that both entries share.
//!
//! The tables used here map the first GiB twice, at 0 and at the kernel's base, without protection; the kernel replaces them at once.

core::arch::global_asm!(
    r#"
    .section .note.pvh, "a", @note
    .balign 4
    .long 4
    .long 8
    .long 18
    .asciz "Xen"
    .quad boot_pvh

    .section .boot, "awx", @progbits
    .code32
    .globl boot_pvh
boot_pvh:
    cli
    lgdtl boot_gdt_pointer
    ljmpl $0x08, $1f
1:  movw $0x18, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    xorl %esi, %esi
    .globl boot_common
boot_common:
    cld
    movl $__bss_start_physical, %edi
    movl $__bss_bytes, %ecx
    shrl $2, %ecx
    xorl %eax, %eax
    rep stosl
    movl %cr4, %eax
    orl $0x20, %eax
    movl %eax, %cr4
    movl $boot_root, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx
    rdmsr
    orl $0x900, %eax
    wrmsr
    movl %cr0, %eax
    andl $0x9fffffff, %eax
    orl $0x80010001, %eax
    movl %eax, %cr0
    ljmpl $0x10, $1f
    .code64
1:  movabsq $boot_stack_top, %rsp
    movl %esi, %edi
    movabsq $kernel_start, %rax
    xorl %ebp, %ebp
    call *%rax
    ud2

    .section .boot.tables, "aw", @progbits
    .balign 4096, 0
boot_root:
    .quad boot_low + 3
    .fill 510, 8, 0
    .quad boot_high + 3
boot_low:
    .quad boot_directory + 3
    .fill 511, 8, 0
boot_high:
    .fill 510, 8, 0
    .quad boot_directory + 3
    .quad 0
boot_directory:
    .set at, 0
    .rept 512
    .quad at + 0x83
    .set at, at + 0x200000
    .endr

    .section .bss.boot_stack, "aw", @nobits
    .balign 4096
    .skip 32768
    .globl boot_stack_top
boot_stack_top:
"#,
    options(att_syntax)
);
