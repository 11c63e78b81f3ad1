/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The shadow channel inside the driver. Layouts mirror ipc/src/shadow.rs, where their meaning is written.
 *
 * shadow.c          the device: sections, rings, interrupts, heartbeat, state of the other side
 * shadow_slots.c    processes and slots, and what requests mean
 * shadow_calls.c    what the threads of a proxy ask
 * shadow_order.c    orders to the other side's supervisor
 * shadow_pool.c     pages of the pool: mirror look-up, faults, taking away
 * shadow_file.c     /dev/crtos-shadow
 *
 * Locks, outermost first: mmap_lock, drain_lock, device (rwsem), process->sem, lock, pool lock. User memory is never touched
 * under any of ours: its fault may be one of ours.
 */
#ifndef CRTOS_SHADOW_H
#define CRTOS_SHADOW_H

#include <linux/fs.h>
#include <linux/kref.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/rwsem.h>
#include <linux/spinlock.h>
#include <linux/wait.h>
#include <linux/xarray.h>

#include "shadow_uapi.h"

#define SHADOW_VERSION		1
#define BOARD_VERSION		1
#define BOARD_MAGIC		0x445242534f545243ULL	/* "CRTOSBRD" */
#define RT_MAGIC		0x54522d534f545243ULL	/* "CRTOS-RT" */
#define LINUX_MAGIC		0x584c2d534f545243ULL	/* "CRTOS-LX" */
#define PEER_LINUX		0
#define PEER_RT			1
#define STATE_RESET		0
#define STATE_RUN		3

#define SLOTS			256
#define CALLS_PER_SLOT		8
#define REQUESTS		512
#define RESPONSES		512
#define WINDOW_START		0x10000ULL
#define WINDOW_END		0x400000000000ULL

#define RT_REQUESTS		0x1000
#define RT_THREADS		0x20000
#define RT_BOARD		0x40000
#define RT_MIRROR		0x100000
#define LINUX_RESPONSES		0x1000
#define LINUX_ORDERS		0x10000
#define LINUX_HELD		0x20000

struct rt_header {
	u64 magic;
	u32 version;
	u32 epoch;
	u32 request_tail;
	u32 response_head;
	u64 heartbeat;
	u64 tsc_khz;
	u64 requests_sent;
	u64 responses_dropped;
	u64 pulse_us;
};

struct linux_header {
	u64 magic;
	u32 version;
	u32 epoch;
	u32 request_head;
	u32 response_tail;
	u64 heartbeat;
	u64 clock_sequence;
	u64 clock_realtime;
	u64 clock_tsc;
	u64 clock_monotonic;
};

struct board {
	u64 magic;
	u32 version;
	u32 servers;
	u32 order_done;
	u32 order_outcome;
};

struct orders {
	u32 sequence;
	u32 verb;
	u32 server;
	u32 argument;
};

enum { REQUEST_CALL = 1, REQUEST_CANCEL, REQUEST_EXIT, REQUEST_THREAD_EXIT, REQUEST_UNMAP };

struct request {
	u64 id;
	u32 kind;
	u32 slot;
	u32 generation;
	u16 policy;
	u16 priority;
	u64 number;
	u64 args[6];
	u64 reserved[6];
};
static_assert(sizeof(struct request) == 128);

enum { RESPONSE_RETURN = 1, RESPONSE_START, RESPONSE_SIGNAL, RESPONSE_GONE };

struct response {
	u64 id;
	u32 kind;
	u32 slot;
	u32 generation;
	u32 pid;
	s64 value;
	u16 policy;
	u16 priority;
	s32 code;
	u32 new_slot;
	u32 new_generation;
	u64 reserved[2];
};
static_assert(sizeof(struct response) == 64);

struct thread_entry {
	u32 generation;
	u32 state;
	u32 leader;
	u32 mirror_root;
	u8 rest[112];
};
static_assert(sizeof(struct thread_entry) == 128);

#define MIRROR_PRESENT		1ULL
#define MIRROR_WRITABLE		2ULL
#define MIRROR_INDEX_SHIFT	12

enum slot_state {
	SLOT_FREE,
	SLOT_ACTIVE,
	SLOT_ENDING,		/* the real-time thread has ended, the worker does not know yet */
	SLOT_GONE_WANTED,	/* on the gone list */
	SLOT_GONE_SENT,		/* free once the other side has consumed response gone_index */
};

struct call {
	u64 id;
	u64 number;
	u64 args[6];
	u16 policy;
	u16 priority;
};

struct slot {
	enum slot_state state;
	u32 generation;
	u32 gone_index;
	struct shadow_process *process;
	struct task_struct *task;
	u64 current_id;		/* call in execution; 0: none */
	unsigned int first, count;
	struct call calls[CALLS_PER_SLOT];
	wait_queue_head_t wait;
	struct list_head gone;
};

struct shadow_process {
	struct kref ref;
	struct inode *inode;		/* whose mapping holds exactly this process's windows */
	struct list_head list;
	struct rw_semaphore sem;	/* read: a fault inserts a page; write: pages are taken away */
	struct xarray pages;		/* window page number -> page of the pool, for what may be mapped */
	bool lost;			/* under sem: no page may be inserted any more */
	/* Under shadow.lock: */
	int leader;			/* slot; -1: not attached */
	u32 generation;
	pid_t tgid;
	u32 cancel_signal;
	bool exited;
	bool dead;			/* the real-time side that it ran in is no more */
	s32 status;
	wait_queue_head_t control;
};

struct shadow {
	struct rw_semaphore device;	/* write: the device comes or goes */
	struct pci_dev *pdev;		/* NULL: absent */
	void __iomem *regs;
	const u32 *states;
	struct rt_header *rt;		/* written by the other side, which is not trusted: read once, check, use */
	struct linux_header *own;
	u64 section_size;

	struct mutex drain_lock;	/* the consumer of the request ring, and state changes */
	u32 request_head;

	spinlock_t lock;
	unsigned int state;		/* CRTOS_SHADOW_* */
	u32 response_tail;
	struct slot slots[SLOTS];
	unsigned int next_slot;
	struct list_head gone;
	struct list_head processes;
	wait_queue_head_t room;		/* for responses */
	u64 requests, responses, dropped;
	struct request owed;		/* done, but its answer had no room; id 0: none */
	s64 owed_value;
};

extern struct shadow shadow;

/* shadow.c */
bool shadow_ring_full(void);
u32 shadow_send(const struct response *response);	/* under lock, ring not full; its index */
void shadow_doorbell(void);				/* under device, read */
void shadow_ring(u16 vector);				/* the same, any vector */
void shadow_kick(void);					/* look at the rings soon */
u64 shadow_silent_ms(void);

/* shadow_slots.c */
void shadow_slots_init(u32 epoch);
bool shadow_request(const struct request *request);	/* false: needs room in the response ring first */
bool shadow_flush(void);
void shadow_realm_down(void);
struct shadow_process *shadow_process_new(void);
void shadow_process_put(struct shadow_process *process);
void shadow_process_release(struct shadow_process *process);
unsigned int shadow_slot_number(const struct slot *slot);
struct slot *shadow_slot_take(struct shadow_process *process);	/* under lock; for the calling thread */
void shadow_slot_release(struct slot *slot);			/* under lock */
void shadow_status(struct crtos_shadow_status *status);

/* shadow_calls.c */
long shadow_attach(struct shadow_process *process, struct crtos_shadow_attach *arg);
long shadow_attach_thread(struct shadow_process *process, struct crtos_shadow_thread *arg);
long shadow_call(struct shadow_process *process, struct crtos_shadow_call *arg);
long shadow_control(struct shadow_process *process, s32 *status);
long shadow_signal(struct shadow_process *process, const struct crtos_shadow_signal *arg);

/* shadow_order.c */
long shadow_order(struct crtos_shadow_order *arg);

/* shadow_pool.c */
int shadow_pool_init(void);
void shadow_pool_exit(void);
struct inode *shadow_pool_inode(void);
int shadow_pool_attach(u64 phys, u64 size, unsigned long *held);
void shadow_pool_detach(void);
void shadow_pool_take(struct shadow_process *process, u64 first, u64 last);	/* window page numbers, inclusive */
void shadow_pool_lose(bool all);
void shadow_pool_take_all(struct shadow_process *process);
void shadow_pool_count(struct crtos_shadow_status *status);
extern const struct vm_operations_struct shadow_vm_ops;

/* shadow_file.c */
int shadow_file_init(void);
void shadow_file_exit(void);

#endif
