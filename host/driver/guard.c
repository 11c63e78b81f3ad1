// SPDX-License-Identifier: GPL-2.0-only
/*
 * What Linux must not do while the hypervisor is there: take CPUs off line on its own, start a CPU that belongs to a cell,
 * or suspend the machine. Each is refused with a line in the log.
 */
#include <linux/cpuhotplug.h>
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
	}
	return err;
}

void crtos_guard_exit(void)
{
	unregister_pm_notifier(&suspend_block);
	cpuhp_remove_state_nocalls(online_state);
	cpuhp_remove_state_nocalls(prepare_state);
}
