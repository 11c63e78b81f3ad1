// SPDX-License-Identifier: GPL-2.0-only
/*
 * What the threads of a proxy ask: attach, serve calls, wait for the end, pass signals on.
 *
 * All of them may wait, and all waits end by a signal or when the other side goes away. An answer is given once, however often
 * an interrupted worker repeats it.
 */
#include <linux/nospec.h>
#include <linux/sched/signal.h>

#include "shadow.h"

/*
 * Takes device (read) and lock with room in the response ring and `process` alive, or gives an error with neither held.
 * A process that has not attached yet is alive as long as the other side is.
 */
static long lock_with_room(struct shadow_process *process)
{
	for (;;) {
		long err = 0;

		down_read(&shadow.device);
		spin_lock(&shadow.lock);
		if (process->dead && process->leader >= 0)
			err = -EIO;
		else if (shadow.state == CRTOS_SHADOW_ABSENT)
			err = -ENODEV;
		else if (shadow.state == CRTOS_SHADOW_DOWN)
			err = -ENOTCONN;
		else if (!shadow_ring_full())
			return 0;
		spin_unlock(&shadow.lock);
		up_read(&shadow.device);
		if (err)
			return err;
		/* The tick looks for room while somebody waits for it, as nobody rings when responses are consumed. */
		err = wait_event_interruptible_timeout(shadow.room, false, msecs_to_jiffies(20) + 1);
		if (err < 0)
			return -EINTR;
	}
}

static void unlock_with_doorbell(bool bell)
{
	spin_unlock(&shadow.lock);
	if (bell)
		shadow_doorbell();
	up_read(&shadow.device);
}

long shadow_attach(struct shadow_process *process, struct crtos_shadow_attach *arg)
{
	struct slot *slot = NULL;
	long err;

	if (!valid_signal(arg->cancel_signal) || !arg->cancel_signal)
		return -EINVAL;
	err = lock_with_room(process);
	if (err)
		return err;
	if (process->leader >= 0)
		err = -EBUSY;
	else if (READ_ONCE(process->lost))
		err = -ENODEV;	/* opened for a device that is gone */
	else
		slot = shadow_slot_take(process);
	if (slot) {
		struct response response = {
			.kind = RESPONSE_START,
			.slot = shadow_slot_number(slot),
			.generation = slot->generation,
			.pid = task_tgid_vnr(current),
			.value = arg->argument_bytes,
			.policy = arg->policy,
			.priority = arg->priority,
		};

		process->dead = false;
		process->leader = shadow_slot_number(slot);
		process->generation = slot->generation;
		process->tgid = current->tgid;
		process->cancel_signal = arg->cancel_signal;
		arg->slot = shadow_slot_number(slot);
		arg->generation = slot->generation;
		shadow_send(&response);
	} else if (!err) {
		err = -EUSERS;
	}
	unlock_with_doorbell(!err);
	return err;
}

static bool attached_here(const struct shadow_process *process)
{
	return process->leader >= 0 && process->tgid == current->tgid;
}

long shadow_attach_thread(struct shadow_process *process, struct crtos_shadow_thread *arg)
{
	struct slot *slot;
	long err = lock_with_room(process);

	if (err)
		return err;
	if (!attached_here(process)) {
		err = -EINVAL;
	} else {
		slot = shadow_slot_take(process);
		if (slot) {
			arg->slot = shadow_slot_number(slot);
			arg->generation = slot->generation;
		} else {
			err = -EUSERS;
		}
	}
	unlock_with_doorbell(false);
	return err;
}

/* Answers the call in execution; once: a repetition finds no such call and does nothing. */
static long reply(struct shadow_process *process, struct slot *slot, const struct crtos_shadow_call *arg)
{
	bool bell = false;
	long err = lock_with_room(process);

	if (err)
		return err;
	if (slot->process == process && slot->task == current && slot->current_id == arg->id) {
		struct response response = {
			.id = arg->id,
			.kind = RESPONSE_RETURN,
			.slot = arg->slot,
			.generation = slot->generation,
			.value = arg->value,
			.new_slot = arg->new_slot,
			.new_generation = arg->new_generation,
		};

		if (slot->state == SLOT_ACTIVE) {
			shadow_send(&response);
			bell = true;
		}
		slot->current_id = 0;
	}
	unlock_with_doorbell(bell);
	return 0;
}

/* 1: nothing for this worker yet. */
static long next_call(struct shadow_process *process, struct slot *slot, struct crtos_shadow_call *arg)
{
	const struct call *call;
	long err = 0;

	spin_lock(&shadow.lock);
	if (slot->process != process || slot->task != current) {
		err = -EBADF;
	} else if (process->dead) {
		err = -EIO;
	} else if (slot->state == SLOT_ENDING) {
		shadow_slot_release(slot);
		err = -ESHUTDOWN;
	} else if (slot->current_id) {
		err = -EINVAL;	/* it has not answered the last one */
	} else if (!slot->count || process->exited) {
		err = 1;
	} else {
		call = &slot->calls[slot->first];
		slot->first = (slot->first + 1) % CALLS_PER_SLOT;
		slot->count--;
		slot->current_id = call->id;
		arg->id = call->id;
		arg->number = call->number;
		memcpy(arg->args, call->args, sizeof(arg->args));
		arg->policy = call->policy;
		arg->priority = call->priority;
	}
	spin_unlock(&shadow.lock);
	return err;
}

long shadow_call(struct shadow_process *process, struct crtos_shadow_call *arg)
{
	struct slot *slot;
	long result;

	if (arg->slot >= SLOTS)
		return -EBADF;
	slot = &shadow.slots[array_index_nospec(arg->slot, SLOTS)];
	if (arg->flags & CRTOS_SHADOW_REPLY) {
		result = reply(process, slot, arg);
		if (result)
			return result;
	}
	if (wait_event_interruptible(slot->wait, (result = next_call(process, slot, arg)) != 1))
		return -EINTR;
	if (result == -ESHUTDOWN)
		shadow_kick();
	return result;
}

long shadow_control(struct shadow_process *process, s32 *status)
{
	if (wait_event_interruptible(process->control, READ_ONCE(process->exited) || READ_ONCE(process->dead)))
		return -EINTR;
	if (!smp_load_acquire(&process->exited))
		return -EIO;
	*status = process->status;
	return 0;
}

long shadow_signal(struct shadow_process *process, const struct crtos_shadow_signal *arg)
{
	long err;

	if (!valid_signal(arg->signo) || !arg->signo)
		return -EINVAL;
	err = lock_with_room(process);
	if (err)
		return err;
	if (attached_here(process)) {
		struct response response = {
			.kind = RESPONSE_SIGNAL,
			.slot = process->leader,
			.generation = process->generation,
			.pid = arg->pid,
			.value = arg->signo,
			.code = arg->code,
		};

		shadow_send(&response);
	} else {
		err = -EINVAL;
	}
	unlock_with_doorbell(!err);
	return err;
}
