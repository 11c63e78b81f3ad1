//! The reset entry of a cell: 16-bit real mode, CS base = load address, IP = 0, every CPU of the cell at once.
//!
//! The first bytes of the image are the jump here; the kernel's head lies 16 bytes behind them. Caches are off until MTRRs are
//! enabled and CR0.CD is cleared, so that comes first. One CPU is elected, the others are parked.

core::arch::global_asm!(
    r#"
    .section .boot.entry, "awx", @progbits
    .code16
    .globl boot_inmate
boot_inmate:
    jmp real_mode
    .balign 16, 0
    .globl kernel_head
kernel_head:
    .ascii "CRTOSKRN"
    .quad 0
    .quad __kernel_end_physical
    .quad boot_pvh
real_mode:
    cli
    lgdtl %cs:(boot_gdt_pointer - boot_inmate)
    movl %cr0, %eax
    andl $0x9fffffff, %eax
    orl $1, %eax
    movl %eax, %cr0
    ljmpl $0x08, $inmate_protected

    .code32
inmate_protected:
    movw $0x18, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl $0x2ff, %ecx
    rdmsr
    orl $0x800, %eax
    wrmsr
    lock btsl $0, elected
    jc park
    movl $1, %esi
    jmp boot_common
park:
    cli
    hlt
    jmp park

    .balign 8, 0
elected:
    .quad 0
    .globl boot_gdt
boot_gdt:
    .quad 0
    .quad 0x00cf9b000000ffff
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff
    .globl boot_gdt_pointer
boot_gdt_pointer:
    .word 31
    .long boot_gdt
"#,
    options(att_syntax)
);
