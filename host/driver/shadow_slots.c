// SPDX-License-Identifier: GPL-2.0-only
/*
 * Processes, their slots (one a thread) and the calls in them.
 *
 * A slot is given out with a new generation each time, and only when the other side has consumed the GONE of the last one.
 * Requests that name a stale generation are dropped. Whoever has an answer but no room in the ring waits; the consumer of
 * the request ring never does: it stops taking requests instead.
 */
#include <linux/module.h>
#include <linux/nospec.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/slab.h>

#include "shadow.h"

static void slot_free(struct slot *slot)
{
	slot->state = SLOT_FREE;
	slot->process = NULL;
	slot->current_id = 0;
	slot->count = 0;
}

void shadow_slots_init(u32 epoch)
{
	unsigned int i;

	spin_lock(&shadow.lock);
	for (i = 0; i < SLOTS; i++) {
		struct slot *slot = &shadow.slots[i];

		if (!epoch) {
			init_waitqueue_head(&slot->wait);
			INIT_LIST_HEAD(&slot->gone);
		}
		/* So that no identity of an earlier instance of this driver comes again. */
		if (slot->state == SLOT_FREE && slot->generation < epoch << 16)
			slot->generation = epoch << 16;
	}
	spin_unlock(&shadow.lock);
}

unsigned int shadow_slot_number(const struct slot *slot)
{
	return slot - shadow.slots;
}

struct slot *shadow_slot_take(struct shadow_process *process)
{
	unsigned int i;

	for (i = 0; i < SLOTS; i++) {
		struct slot *slot = &shadow.slots[(shadow.next_slot + i) % SLOTS];

		if (slot->state == SLOT_GONE_SENT &&
		    (s32)(READ_ONCE(shadow.rt->response_head) - slot->gone_index) > 0)
			slot_free(slot);
		if (slot->state != SLOT_FREE)
			continue;
		shadow.next_slot = (shadow_slot_number(slot) + 1) % SLOTS;
		if (!++slot->generation)
			slot->generation = 1;
		slot->state = SLOT_ACTIVE;
		slot->process = process;
		slot->task = get_task_struct(current);
		return slot;
	}
	return NULL;
}

/* The worker of this slot is no more: tell, or just free it if nobody is there to be told. */
void shadow_slot_release(struct slot *slot)
{
	put_task_struct(slot->task);
	slot->task = NULL;
	if (slot->process->dead || shadow.state != CRTOS_SHADOW_UP) {
		slot_free(slot);
		return;
	}
	slot->process = NULL;
	slot->current_id = 0;
	slot->count = 0;
	slot->state = SLOT_GONE_WANTED;
	list_add_tail(&slot->gone, &shadow.gone);
}

static void answer(const struct request *request, s64 value)
{
	struct response response = {
		.id = request->id,
		.kind = RESPONSE_RETURN,
		.slot = request->slot,
		.generation = request->generation,
		.value = value,
	};

	shadow_send(&response);
}

/* Sends the answer owed and what GONE messages there is room for. Caller holds device (read); true: ring the doorbell. */
bool shadow_flush(void)
{
	struct slot *slot;
	bool sent = false;

	spin_lock(&shadow.lock);
	if (shadow.state == CRTOS_SHADOW_UP && shadow.owed.id && !shadow_ring_full()) {
		answer(&shadow.owed, shadow.owed_value);
		shadow.owed.id = 0;
		sent = true;
	}
	while (shadow.state == CRTOS_SHADOW_UP && !list_empty(&shadow.gone) && !shadow_ring_full()) {
		struct response response = { .kind = RESPONSE_GONE };

		slot = list_first_entry(&shadow.gone, struct slot, gone);
		list_del_init(&slot->gone);
		response.slot = shadow_slot_number(slot);
		response.generation = slot->generation;
		slot->gone_index = shadow_send(&response);
		slot->state = SLOT_GONE_SENT;
		sent = true;
	}
	spin_unlock(&shadow.lock);
	return sent;
}

/* The other side is gone with all that it knew: every wait ends. */
void shadow_realm_down(void)
{
	struct shadow_process *process;
	unsigned int i;

	spin_lock(&shadow.lock);
	shadow.state = CRTOS_SHADOW_DOWN;
	shadow.owed.id = 0;
	list_for_each_entry(process, &shadow.processes, list) {
		process->dead = true;
		wake_up_all(&process->control);
	}
	for (i = 0; i < SLOTS; i++) {
		struct slot *slot = &shadow.slots[i];

		if (slot->state == SLOT_GONE_WANTED)
			list_del_init(&slot->gone);
		if (slot->state == SLOT_GONE_WANTED || slot->state == SLOT_GONE_SENT)
			slot_free(slot);
		wake_up_all(&slot->wait);
	}
	spin_unlock(&shadow.lock);
	wake_up_all(&shadow.room);
}

/* ---- requests ---- */

/* The same when workers may have used up the room meanwhile: then the answer is owed, and goes out before the next request is taken. */
static bool answer_or_owe(const struct request *request, s64 value)
{
	if (shadow_ring_full()) {
		shadow.owed = *request;
		shadow.owed_value = value;
		return false;
	}
	answer(request, value);
	return true;
}

static void interrupt_call(struct slot *slot)
{
	struct kernel_siginfo info;

	clear_siginfo(&info);
	info.si_signo = slot->process->cancel_signal;
	info.si_code = SI_QUEUE;
	info.si_int = (u32)slot->current_id;
	if (send_sig_info(info.si_signo, &info, slot->task))
		send_sig(info.si_signo, slot->task, 1);	/* no room for the details: it still interrupts */
}

/* False: answered at once with `value`. */
static bool queue_call(struct slot *slot, const struct request *request, s64 *value)
{
	struct call *call;

	if (slot->count + !!slot->current_id >= CALLS_PER_SLOT) {
		*value = -EAGAIN;
		return false;
	}
	call = &slot->calls[(slot->first + slot->count++) % CALLS_PER_SLOT];
	call->id = request->id;
	call->number = request->number;
	memcpy(call->args, request->args, sizeof(call->args));
	call->policy = request->policy;
	call->priority = request->priority;
	wake_up(&slot->wait);
	return true;
}

/* True: the call waited still, and is answered. */
static bool cancel_call(struct slot *slot, u64 id)
{
	unsigned int i;

	if (!id)
		return false;
	if (slot->current_id == id) {
		interrupt_call(slot);
		return false;
	}
	for (i = 0; i < slot->count; i++)
		if (slot->calls[(slot->first + i) % CALLS_PER_SLOT].id == id)
			break;
	if (i == slot->count)
		return false;
	for (; i + 1 < slot->count; i++)
		slot->calls[(slot->first + i) % CALLS_PER_SLOT] = slot->calls[(slot->first + i + 1) % CALLS_PER_SLOT];
	slot->count--;
	return true;
}

static s64 take_pages(struct shadow_process *process, u64 start, u64 size)
{
	u64 end = start + size;

	if (end <= start || start < WINDOW_START || end > WINDOW_END)
		return -EINVAL;
	shadow_pool_take(process, start >> PAGE_SHIFT, (end - 1) >> PAGE_SHIFT);
	return 0;
}

bool shadow_request(const struct request *request)
{
	struct shadow_process *process;
	struct request target = *request;
	struct slot *slot;
	bool bell = false, leader;
	s64 value;

	spin_lock(&shadow.lock);
	if (shadow.owed.id || shadow_ring_full()) {
		spin_unlock(&shadow.lock);
		return false;
	}
	shadow.requests++;
	if (request->slot >= SLOTS)
		goto drop;
	slot = &shadow.slots[array_index_nospec(request->slot, SLOTS)];
	if (slot->generation != request->generation || slot->state != SLOT_ACTIVE)
		goto drop;
	process = slot->process;
	leader = process->leader == shadow_slot_number(slot);

	switch (request->kind) {
	case REQUEST_CALL:
		if (!request->id)
			goto drop;
		bell = !queue_call(slot, request, &value);
		if (bell)
			answer(request, value);
		break;
	case REQUEST_CANCEL:
		target.id = request->args[0];
		bell = cancel_call(slot, target.id);
		if (bell)
			answer(&target, -EINTR);
		break;
	case REQUEST_EXIT:
		if (!leader || process->exited)
			goto drop;
		process->status = request->args[0];
		process->exited = true;
		wake_up_all(&process->control);
		break;
	case REQUEST_THREAD_EXIT:
		if (leader)
			goto drop;
		slot->state = SLOT_ENDING;
		slot->count = 0;
		if (slot->current_id)
			interrupt_call(slot);
		wake_up(&slot->wait);
		break;
	case REQUEST_UNMAP:
		if (!leader || !request->id)
			goto drop;
		kref_get(&process->ref);
		spin_unlock(&shadow.lock);
		value = take_pages(process, request->args[0], request->args[1]);
		shadow_process_put(process);
		spin_lock(&shadow.lock);
		bell = answer_or_owe(request, value);
		break;
	default:
		goto drop;
	}
	spin_unlock(&shadow.lock);
	if (bell)
		shadow_doorbell();
	return true;

drop:
	shadow.dropped++;
	spin_unlock(&shadow.lock);
	return true;
}

/* ---- processes ---- */

struct shadow_process *shadow_process_new(void)
{
	struct shadow_process *process = kzalloc(sizeof(*process), GFP_KERNEL);

	if (!process)
		return ERR_PTR(-ENOMEM);
	process->inode = shadow_pool_inode();
	if (IS_ERR(process->inode)) {
		void *error = process->inode;

		kfree(process);
		return error;
	}
	kref_init(&process->ref);
	init_rwsem(&process->sem);
	xa_init(&process->pages);
	init_waitqueue_head(&process->control);
	process->leader = -1;
	spin_lock(&shadow.lock);
	list_add_tail(&process->list, &shadow.processes);
	spin_unlock(&shadow.lock);
	return process;
}

static void process_free(struct kref *ref)
{
	struct shadow_process *process = container_of(ref, struct shadow_process, ref);

	iput(process->inode);
	xa_destroy(&process->pages);
	kfree(process);
}

void shadow_process_put(struct shadow_process *process)
{
	kref_put(&process->ref, process_free);
}

/* The file is closed: no window, no worker of it is left. */
void shadow_process_release(struct shadow_process *process)
{
	unsigned int i;
	bool bell;

	shadow_pool_take_all(process);

	down_read(&shadow.device);
	spin_lock(&shadow.lock);
	list_del(&process->list);
	for (i = 0; i < SLOTS; i++)
		if (shadow.slots[i].process == process && i != process->leader)
			shadow_slot_release(&shadow.slots[i]);
	if (process->leader >= 0)
		shadow_slot_release(&shadow.slots[process->leader]);	/* last: it stands for the whole process */
	spin_unlock(&shadow.lock);
	bell = shadow.pdev && shadow_flush();
	if (bell)
		shadow_doorbell();
	up_read(&shadow.device);
	shadow_process_put(process);
}

void shadow_status(struct crtos_shadow_status *status)
{
	struct shadow_process *process;
	unsigned int i;

	memset(status, 0, sizeof(*status));
	down_read(&shadow.device);
	spin_lock(&shadow.lock);
	status->state = shadow.state;
	for (i = 0; i < SLOTS; i++) {
		struct slot *slot = &shadow.slots[i];

		if (slot->state == SLOT_GONE_SENT && shadow.pdev &&
		    (s32)(READ_ONCE(shadow.rt->response_head) - slot->gone_index) > 0)
			slot_free(slot);
		status->slots += slot->state != SLOT_FREE;
	}
	list_for_each_entry(process, &shadow.processes, list)
		status->processes += process->leader >= 0;
	status->requests = shadow.requests;
	status->responses = shadow.responses;
	status->dropped = shadow.dropped;
	spin_unlock(&shadow.lock);
	if (shadow.pdev) {
		status->epoch = shadow.own->epoch;
		status->section_size = shadow.section_size;
		status->silent_ms = shadow_silent_ms();
	}
	shadow_pool_count(status);
	up_read(&shadow.device);
}
