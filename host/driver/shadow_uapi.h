/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */
/*
 * User-space interface of /dev/crtos-shadow: one open file is one process of the real-time realm.
 *
 * Order: open; mmap the window (MAP_SHARED, file offset = address); ATTACH in the thread that is to be the first worker;
 * then each worker loops on CALL, one thread waits in CONTROL, one forwards signals with SIGNAL. A thread that serves a new
 * real-time thread starts with ATTACH_THREAD. Closing the file (the end of the process does it) gives everything back.
 * All but STATUS, ORDER and read() only work in the process that attached.
 *
 * poll() says readable while the real-time side is there.
 * read() (pread) shows the section that the real-time side writes; the offset is the offset in it.
 *
 * Errors: ENODEV no device (hypervisor not enabled), ENOTCONN real-time side not running, EIO it went away since ATTACH,
 *   EUSERS all slots in use, ESHUTDOWN (CALL) this worker's thread has ended, EINTR a signal arrived: call again with the same
 *   argument, EBADF not this thread's slot, EBUSY attached already, EINVAL.
 */
#ifndef CRTOS_SHADOW_UAPI_H
#define CRTOS_SHADOW_UAPI_H

#include <linux/ioctl.h>
#include <linux/types.h>

struct crtos_shadow_attach {
	__u32 argument_bytes;	/* in: size of the argument block */
	__u16 policy;		/* in: Linux scheduling policy and priority to start with */
	__u16 priority;
	__u32 cancel_signal;	/* in: queued (si_int = low half of the call's id) to a worker whose call is cancelled */
	__u32 slot;		/* out */
	__u32 generation;	/* out */
	__u32 padding;
};

struct crtos_shadow_thread {
	__u32 slot;		/* out */
	__u32 generation;	/* out */
};

#define CRTOS_SHADOW_REPLY 1	/* answer the call `id` with `value` before waiting for the next one */

struct crtos_shadow_call {
	__u32 slot;		/* in */
	__u32 flags;		/* in */
	__u64 id;		/* in: the call answered; out: the next call */
	__s64 value;		/* in */
	__u32 new_slot;		/* in: slot of a new thread */
	__u32 new_generation;	/* in */
	__u64 number;		/* out */
	__u64 args[6];		/* out */
	__u16 policy;		/* out: scheduling of the caller */
	__u16 priority;
	__u32 padding;
};

struct crtos_shadow_signal {
	__u32 signo;
	__u32 pid;		/* sender */
	__s32 code;		/* si_code */
	__u32 padding;
};

/* An order to the supervisor; numbers as in ipc/src/board.rs. It is given, and the answer waited for (ETIMEDOUT: none came). */
struct crtos_shadow_order {
	__u32 verb;		/* in */
	__u32 server;		/* in */
	__u32 argument;		/* in */
	__u32 outcome;		/* out */
};

/* States of the real-time side. */
#define CRTOS_SHADOW_ABSENT	0	/* no device */
#define CRTOS_SHADOW_DOWN	1	/* device, but nobody at the other end */
#define CRTOS_SHADOW_UP		2

struct crtos_shadow_status {
	__u32 state;
	__u32 slots;		/* in use, those included whose end the other side has not seen yet */
	__u32 processes;	/* attached */
	__u32 epoch;		/* of this driver instance */
	__u64 pool_pages;
	__u64 pages_mapped;	/* pages of the pool mapped in some process */
	__u64 pages_pinned;	/* taken away, but still in use by the kernel */
	__u64 requests;		/* taken since load */
	__u64 responses;	/* sent since load */
	__u64 dropped;		/* requests that made no sense */
	__u64 silent_ms;	/* since the other side's heartbeat last moved */
	__u64 section_size;	/* bytes that read() can show */
};

#define CRTOS_SHADOW_ATTACH	 _IOWR(0xc7, 0x10, struct crtos_shadow_attach)
#define CRTOS_SHADOW_THREAD	 _IOR(0xc7, 0x11, struct crtos_shadow_thread)
#define CRTOS_SHADOW_CALL	 _IOWR(0xc7, 0x12, struct crtos_shadow_call)
#define CRTOS_SHADOW_CONTROL	 _IOR(0xc7, 0x13, __s32)	/* waits for the wait status of the process */
#define CRTOS_SHADOW_SIGNAL	 _IOW(0xc7, 0x14, struct crtos_shadow_signal)
#define CRTOS_SHADOW_GET_STATUS	 _IOR(0xc7, 0x15, struct crtos_shadow_status)
#define CRTOS_SHADOW_ORDER	 _IOWR(0xc7, 0x16, struct crtos_shadow_order)

#endif
