// SPDX-License-Identifier: GPL-2.0-only
/*
 * What Linux must not do while the hypervisor is there: take CPUs off line on its own, start a CPU that belongs to a cell,
 * suspend the machine, or load another kernel to boot into. Each is refused with a line in the log.
 */
#include <linux/cpuhotplug.h>
#include <linux/kprobes.h>
#include <linux/notifier.h>
#include <linux/suspend.h>

#include "crtos.h"

/* CPUs that belong to cells, and those that change sides just now; read without the lock in hotplug callbacks */
struct cpumask crtos_given;
struct cpumask crtos_moving;

static enum cpuhp_state prepare_state, online_state;

static int cpu_comes(unsigned int cpu)
{
	if (!crtos_enabled || cpumask_test_cpu(cpu, &crtos_moving) || !cpumask_test_cpu(cpu, &crtos_given))
		return 0;
	pr_err("crtos: CPU %u belongs to a cell: destroy that first\n", cpu);
	return -EBUSY;
}

static int cpu_goes(unsigned int cpu)
{
	if (!READ_ONCE(crtos_enabled) || cpumask_test_cpu(cpu, &crtos_moving))
		return 0;
	pr_err("crtos: CPU %u cannot go off line while the hypervisor is enabled\n", cpu);
	return -EBUSY;
}

static int suspending(struct notifier_block *block, unsigned long event, void *unused)
{
	if (!crtos_enabled || (event != PM_SUSPEND_PREPARE && event != PM_HIBERNATION_PREPARE))
		return NOTIFY_DONE;
	pr_err("crtos: no suspend while the hypervisor is enabled: crtos disable\n");
	return notifier_from_errno(-EBUSY);
}

static struct notifier_block suspend_block = { .notifier_call = suspending };

/*
 * Nobody is asked before a kernel is loaded for kexec. So a probe on the first thing that every way of loading one does
 * puts a function that fails in its place: the stack is as at its entry, and cannot be changed here.
 */
static notrace noinline int kexec_refused(void)
{
	return -EBUSY;
}

static int kexec_loads(struct kprobe *probe, struct pt_regs *regs)
{
	if (!READ_ONCE(crtos_enabled))
		return 0;
	pr_err("crtos: no kexec while the hypervisor is enabled: crtos disable\n");
	regs->ip = (unsigned long)kexec_refused;
	return 1;
}

/* with a handler behind it the probe is not optimised into a jump, which could not return */
static void kexec_loaded(struct kprobe *probe, struct pt_regs *regs, unsigned long flags)
{
}

static struct kprobe kexec_probe = {
	.symbol_name = "machine_kexec_prepare",
	.pre_handler = kexec_loads,
	.post_handler = kexec_loaded,
};
static bool kexec_guarded;

int crtos_guard_init(void)
{
	int err = cpuhp_setup_state_nocalls(CPUHP_BP_PREPARE_DYN, "crtos:prepare", cpu_comes, NULL);

	if (err < 0)
		return err;
	prepare_state = err;
	err = cpuhp_setup_state_nocalls(CPUHP_AP_ONLINE_DYN, "crtos:online", NULL, cpu_goes);
	if (err < 0) {
		cpuhp_remove_state_nocalls(prepare_state);
		return err;
	}
	online_state = err;
	err = register_pm_notifier(&suspend_block);
	if (err) {
		cpuhp_remove_state_nocalls(online_state);
		cpuhp_remove_state_nocalls(prepare_state);
		return err;
	}
	/* a kernel without kexec has nothing to guard */
	err = register_kprobe(&kexec_probe);
	kexec_guarded = !err;
	if (err && err != -ENOENT)
		pr_warn("crtos: kexec cannot be refused: %d\n", err);
	return 0;
}

void crtos_guard_exit(void)
{
	if (kexec_guarded)
		unregister_kprobe(&kexec_probe);
	unregister_pm_notifier(&suspend_block);
	cpuhp_remove_state_nocalls(online_state);
	cpuhp_remove_state_nocalls(prepare_state);
}
