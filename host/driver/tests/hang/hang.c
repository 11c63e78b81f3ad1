// SPDX-License-Identifier: GPL-2.0-only
/* Test module: when it is loaded, every processor of this Linux stops for ever, with interrupts off. */
#include <linux/delay.h>
#include <linux/irqflags.h>
#include <linux/module.h>
#include <linux/smp.h>

static void stop(void *unused)
{
	local_irq_disable();
	for (;;)
		cpu_relax();
}

static int __init hang_init(void)
{
	pr_emerg("hang: every processor stops\n");
	msleep(500);	/* until the console has said so */
	smp_call_function(stop, NULL, 0);
	stop(NULL);
	return 0;
}

module_init(hang_init);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Test: a Linux that hangs");
