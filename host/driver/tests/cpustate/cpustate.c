// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test module: looks at everything that a processor holds, right before and right after it enters and leaves the hypervisor, and
 * once more over both. Interrupts are off in between, so that nothing may change but what names the hypervisor itself.
 *
 * /sys/module/cpustate/parameters: checked, number of comparisons; wrong, number of registers that differed, each with a line in the log.
 */
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/percpu.h>
#include <asm/apic.h>
#include <asm/debugreg.h>
#include <asm/desc.h>
#include <asm/fpu/xcr.h>
#include <asm/msr.h>
#include <asm/special_insns.h>

static atomic_t checked, wrong;

static int get_counter(char *buffer, const struct kernel_param *kp)
{
	return sprintf(buffer, "%d\n", atomic_read(kp->arg));
}

static const struct kernel_param_ops counter_ops = { .get = get_counter };
module_param_cb(checked, &counter_ops, &checked, 0444);
module_param_cb(wrong, &counter_ops, &wrong, 0444);

/* lasting: it is the same at any time, and not only while interrupts are off */
static const struct { const char *name; u32 number; bool lasting; } msrs[] = {
	{ "EFER", MSR_EFER, true },
	{ "STAR", MSR_STAR, true },
	{ "LSTAR", MSR_LSTAR, true },
	{ "CSTAR", MSR_CSTAR, true },
	{ "SFMASK", MSR_SYSCALL_MASK, true },
	{ "FS base", MSR_FS_BASE, false },
	{ "GS base", MSR_GS_BASE, true },
	{ "kernel GS base", MSR_KERNEL_GS_BASE, false },
	{ "TSC_AUX", MSR_TSC_AUX, true },
	{ "SYSENTER_CS", MSR_IA32_SYSENTER_CS, true },
	{ "SYSENTER_ESP", MSR_IA32_SYSENTER_ESP, true },
	{ "SYSENTER_EIP", MSR_IA32_SYSENTER_EIP, true },
	{ "PAT", MSR_IA32_CR_PAT, true },
	{ "MTRR default type", MSR_MTRRdefType, true },
	{ "APIC base", MSR_IA32_APICBASE, true },
	{ "DEBUGCTL", MSR_IA32_DEBUGCTLMSR, true },
};

/* in x2APIC mode there is no destination format */
static const struct { const char *name; u32 offset; bool lasting; } apic_registers[] = {
	{ "APIC id", APIC_ID, true },
	{ "APIC TPR", APIC_TASKPRI, true },
	{ "APIC LDR", APIC_LDR, true },
	{ "APIC DFR", APIC_DFR, true },
	{ "APIC SVR", APIC_SPIV, true },
	{ "APIC timer vector", APIC_LVTT, true },
	{ "APIC performance vector", APIC_LVTPC, true },
	{ "APIC LINT0", APIC_LVT0, true },
	{ "APIC LINT1", APIC_LVT1, true },
	{ "APIC error vector", APIC_LVTERR, true },
	{ "APIC initial count", APIC_TMICT, false },
	{ "APIC divider", APIC_TDCR, true },
};

static const struct { const char *name; bool lasting; } registers[] = {
	{ "CR0", true }, { "CR2", false }, { "CR3", false }, { "CR4", true }, { "CR8", true },
	{ "DR0", true }, { "DR1", true }, { "DR2", true }, { "DR3", true }, { "DR6", true }, { "DR7", true },
	{ "XCR0", true }, { "GDT base", true }, { "GDT limit", true }, { "IDT base", true }, { "IDT limit", true },
	{ "TR", true }, { "LDT", false }, { "CS", true }, { "SS", false }, { "DS", false }, { "ES", false }, { "FS", false },
	{ "GS", false }, { "flags", false },
};

/* of SVM: not to be read in a guest */
static const struct { const char *name; u32 number; } host_msrs[] = {
	{ "VM_CR", MSR_VM_CR },
	{ "VM_HSAVE_PA", MSR_VM_HSAVE_PA },
};

#define REGISTERS ARRAY_SIZE(host_msrs)
#define MSRS (REGISTERS + ARRAY_SIZE(registers))
#define APICS (MSRS + ARRAY_SIZE(msrs))
#define COUNT (APICS + ARRAY_SIZE(apic_registers))

struct state {
	u64 words[COUNT];
};

static DEFINE_PER_CPU(struct state, before_enter);
static DEFINE_PER_CPU(struct state, now);

static void look(struct state *state)
{
	u64 *word = state->words;
	struct desc_ptr gdt, idt;
	unsigned long value;
	unsigned int n;
	u16 selector;

	for (n = 0; n < ARRAY_SIZE(host_msrs); n++)
		if (rdmsrl_safe(host_msrs[n].number, word++))
			word[-1] = 0;
	*word++ = native_read_cr0();
	*word++ = native_read_cr2();
	*word++ = __native_read_cr3();
	*word++ = native_read_cr4();
	asm volatile("mov %%cr8, %0" : "=r"(value));
	*word++ = value;
	for (n = 0; n <= 7; n++) {
		if (n == 4 || n == 5)
			continue;
		get_debugreg(value, n);
		*word++ = value;
	}
	*word++ = native_read_cr4() & X86_CR4_OSXSAVE ? xgetbv(XCR_XFEATURE_ENABLED_MASK) : 0;
	native_store_gdt(&gdt);
	store_idt(&idt);
	*word++ = gdt.address;
	*word++ = gdt.size;
	*word++ = idt.address;
	*word++ = idt.size;
	*word++ = native_store_tr();
	asm volatile("sldt %0" : "=r"(value));
	*word++ = value;
#define SELECTOR(name) asm volatile("mov %%" #name ", %0" : "=rm"(selector)); *word++ = selector
	SELECTOR(cs);
	SELECTOR(ss);
	SELECTOR(ds);
	SELECTOR(es);
	SELECTOR(fs);
	SELECTOR(gs);
	*word++ = native_save_fl() & ~(X86_EFLAGS_CF | X86_EFLAGS_PF | X86_EFLAGS_AF | X86_EFLAGS_ZF | X86_EFLAGS_SF | X86_EFLAGS_OF);
	for (n = 0; n < ARRAY_SIZE(msrs); n++)
		if (rdmsrl_safe(msrs[n].number, word++))
			word[-1] = 0;
	for (n = 0; n < ARRAY_SIZE(apic_registers); n++)
		*word++ = apic_registers[n].offset == APIC_DFR && x2apic_enabled() ? 0 : apic_read(apic_registers[n].offset);
}

static const char *name_of(unsigned int n, bool *lasting)
{
	*lasting = true;
	if (n < REGISTERS)
		return host_msrs[n].name;
	if (n < MSRS) {
		*lasting = registers[n - REGISTERS].lasting;
		return registers[n - REGISTERS].name;
	}
	if (n < APICS) {
		*lasting = msrs[n - MSRS].lasting;
		return msrs[n - MSRS].name;
	}
	*lasting = apic_registers[n - APICS].lasting;
	return apic_registers[n - APICS].name;
}

/* over_all: the processor did other things in between, and is no guest at either end */
static void compare(const struct state *before, const struct state *after, bool over_all, const char *what)
{
	unsigned int n;
	bool lasting;

	for (n = 0; n < COUNT; n++) {
		const char *name = name_of(n, &lasting);

		if (before->words[n] == after->words[n] || (over_all ? !lasting : n < REGISTERS))
			continue;
		atomic_inc(&wrong);
		pr_err("cpustate: CPU %u, %s: %s was %#llx, is %#llx\n", smp_processor_id(), what, name, before->words[n],
		       after->words[n]);
	}
	atomic_inc(&checked);
}

static int enters(struct kretprobe_instance *instance, struct pt_regs *regs)
{
	look(this_cpu_ptr(&before_enter));
	return 0;
}

static int entered(struct kretprobe_instance *instance, struct pt_regs *regs)
{
	look(this_cpu_ptr(&now));
	compare(this_cpu_ptr(&before_enter), this_cpu_ptr(&now), false, "enable");
	return 0;
}

static int leaves(struct kretprobe_instance *instance, struct pt_regs *regs)
{
	look((struct state *)instance->data);
	return 0;
}

static int left(struct kretprobe_instance *instance, struct pt_regs *regs)
{
	look(this_cpu_ptr(&now));
	compare((struct state *)instance->data, this_cpu_ptr(&now), false, "disable");
	compare(this_cpu_ptr(&before_enter), this_cpu_ptr(&now), true, "enable and disable");
	return 0;
}

static struct kretprobe enter_probe = {
	.kp.symbol_name = "crtos:enter_cpu",
	.entry_handler = enters,
	.handler = entered,
};

static struct kretprobe leave_probe = {
	.kp.symbol_name = "crtos:leave_cpu",
	.entry_handler = leaves,
	.handler = left,
	.data_size = sizeof(struct state),
};

static struct kretprobe *probes[] = { &enter_probe, &leave_probe };

static int __init cpustate_init(void)
{
	enter_probe.maxactive = leave_probe.maxactive = num_possible_cpus();
	return register_kretprobes(probes, ARRAY_SIZE(probes));
}

static void __exit cpustate_exit(void)
{
	unregister_kretprobes(probes, ARRAY_SIZE(probes));
}

module_init(cpustate_init);
module_exit(cpustate_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Test: what a processor holds before and after the hypervisor");
