// SPDX-License-Identifier: GPL-2.0-only
/*
 * Orders to the other side's supervisor, one at a time. The answer is a word of the other side's section: it is only handed on.
 */
#include <linux/delay.h>
#include <linux/jiffies.h>
#include <linux/mutex.h>
#include <linux/sched/signal.h>

#include "shadow.h"

#define VECTOR_ORDER	2
/* A server's new instance takes far less. */
#define PATIENCE	(10 * HZ)

static DEFINE_MUTEX(order_lock);

/* Under order_lock and device. The sequence number: one that the board does not show. */
static u32 give(const struct crtos_shadow_order *arg, const struct board *board)
{
	struct orders *orders = (void *)shadow.own + LINUX_ORDERS;
	u32 sequence = READ_ONCE(board->order_done) + 1;

	WRITE_ONCE(orders->verb, arg->verb);
	WRITE_ONCE(orders->server, arg->server);
	WRITE_ONCE(orders->argument, arg->argument);
	smp_store_release(&orders->sequence, sequence);
	shadow_ring(VECTOR_ORDER);
	return sequence;
}

long shadow_order(struct crtos_shadow_order *arg)
{
	unsigned long end = jiffies + PATIENCE;
	bool given = false;
	u32 sequence = 0;
	long err;

	if (mutex_lock_interruptible(&order_lock))
		return -EINTR;
	do {
		const struct board *board;

		down_read(&shadow.device);
		board = (const void *)shadow.rt + RT_BOARD;
		if (!shadow.pdev) {
			err = -ENODEV;
		} else if (READ_ONCE(board->magic) != BOARD_MAGIC || READ_ONCE(board->version) != BOARD_VERSION) {
			err = -ENOTCONN;
		} else {
			if (!given)
				sequence = give(arg, board);
			given = true;
			err = smp_load_acquire(&board->order_done) == sequence ? 0 : -ETIMEDOUT;
			arg->outcome = READ_ONCE(board->order_outcome);
		}
		up_read(&shadow.device);
		/* Nobody rings back. */
		if (err == -ETIMEDOUT && msleep_interruptible(1))
			err = -EINTR;
	} while (err == -ETIMEDOUT && time_before(jiffies, end));
	mutex_unlock(&order_lock);
	return err;
}
