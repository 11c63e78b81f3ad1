/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The way into the hypervisor and back.
 *
 * This code fills a page of its own, because it is the one page that is mapped at the same address by Linux and by the
 * boot tables in hypervisor memory: only here can CR3 change. From the CR3 switch on nothing but registers is used.
 *
 * Contract with the hypervisor's entry:
 *   in:  edi = CPU, rsi = where the CPU goes on as guest, rdx = where it goes on when the hypervisor returns as host,
 *        rbx = Linux CR3, rbp = Linux RSP, r12 = Linux CR4; global interrupts off (GIF 0), so no NMI can hit half-switched state
 *   out: as guest at rsi with rax = 0 and Linux's CR3, CR4, GDT, IDT; or as host at rdx with rax = error,
 *        rbx, rbp, r12 unchanged, boot tables in CR3.
 * After crtos_leave's hypercall succeeded, the hypervisor jumps to the rdx of the entry, with rbx, rbp, r12 of the caller.
 */
#include <linux/linkage.h>

#define MSR_EFER	0xc0000080
#define EFER_SVME	12
#define CR4_PGE		(1 << 7)
#define CR4_PCIDE	(1 << 17)

	.text
	.balign 4096
	.globl crtos_entry_page
crtos_entry_page:

.macro SAVE_LINUX
	pushq	%rbp
	pushq	%rbx
	pushq	%r12
	pushq	%r13
	pushq	%r14
	pushq	%r15
	pushfq
	cli
	subq	$32, %rsp
	sgdt	(%rsp)			/* 10 bytes */
	movw	%ds, 10(%rsp)
	movw	%es, 12(%rsp)
	movw	%ss, 14(%rsp)		/* null, if the last interrupt came from user mode */
	sidt	16(%rsp)		/* 10 bytes */
	movq	%rsp, %rbp
	movq	%cr3, %rbx
	movq	%cr4, %r12
.endm

/* long crtos_enter(unsigned int cpu, u64 boot_cr3, u64 entry) */
	.globl crtos_enter
crtos_enter:
	SAVE_LINUX
	movq	%rsi, %r8
	movq	%rdx, %r9
	movl	$MSR_EFER, %ecx
	rdmsr
	btsl	$EFER_SVME, %eax
	wrmsr
	clgi
	movq	%r12, %rax
	andq	$~(CR4_PGE | CR4_PCIDE), %rax
	movq	%rax, %cr4
	leaq	.Lguest(%rip), %rsi
	leaq	.Lhost(%rip), %rdx
	movq	%r8, %cr3
	jmp	*%r9

.Lhost:
	movq	%rax, %r13
	movq	%rbx, %rax
	andq	$~0xfff, %rax		/* PCIDE can only be set while the PCID is 0 */
	movq	%rax, %cr3
	movq	%r12, %cr4
	movq	%rbx, %cr3
	movq	%rbp, %rsp
	lgdt	(%rsp)
	lidt	16(%rsp)
	movw	10(%rsp), %ds
	movw	12(%rsp), %es
	movw	14(%rsp), %ss
	stgi
	movl	$MSR_EFER, %ecx
	rdmsr
	btrl	$EFER_SVME, %eax
	wrmsr
	movq	%r13, %rax
	jmp	.Lout

.Lguest:
	movq	%rbp, %rsp
.Lout:
	addq	$32, %rsp
	popfq
	popq	%r15
	popq	%r14
	popq	%r13
	popq	%r12
	popq	%rbx
	popq	%rbp
	ret
	int3

/* long crtos_leave(void): 0 when the hypervisor is gone from this CPU */
	.globl crtos_leave
crtos_leave:
	SAVE_LINUX
	xorl	%eax, %eax		/* hypercall 0: disable */
	vmmcall
	movslq	%eax, %rax		/* still a guest: refused */
	jmp	.Lguest

	.balign 4096
	.section .note.GNU-stack,"",@progbits
