/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */
/*
 * User-space interface of /dev/crtos.
 *
 * All structures are little endian, naturally aligned, without holes; pointers travel as u64.
 * Every call needs CAP_SYS_ADMIN (the node is 0600 root). Calls are serialised by the driver.
 * The numbers of the Jailhouse interface (DISABLE, CELL_*) are kept; ENABLE differs, because
 * here user space brings the hypervisor image too.
 *
 * name              number      argument (bytes)                 what it does
 * ----------------  ----------  -------------------------------  ------------------------------------------
 * ENABLE            0x40200010  struct crtos_enable (32)         copy image and system configuration to the
 *                                                                hypervisor memory, enter it on all CPUs
 * DISABLE           0x00000001  none                             leave it on all CPUs; -EBUSY while cells exist
 * CELL_CREATE       0x40100002  struct crtos_cell_create (16)    take CPUs off line, create the cell; result = id
 * CELL_LOAD         0x40300003  struct crtos_cell_load (48) +    make the cell loadable (stops it), copy images;
 *                               n * struct crtos_image (32)      n = 0: shut the cell down
 * CELL_START        0x40280004  struct crtos_cell_id (40)        start all its CPUs at the reset address
 * CELL_DESTROY      0x40280005  struct crtos_cell_id (40)        destroy, CPUs come back on line
 * QUERY             0xc0200011  struct crtos_query (32)          hypercalls 5, 6, 7 and CRTOS_HC_CELL_FAILURE
 * CELL_INFO         0xc0500012  struct crtos_cell_info (80)      the n-th cell (0 = root); -ENOENT past the last
 * CELL_CONFIG       0xc0380013  struct crtos_cell_config (56)    the configuration a cell was made from; result = bytes
 * MEMORY_TAKE       0x40100014  struct crtos_memory (16)         take whole memory blocks, off line already, from Linux
 * MEMORY_GIVE       0xc0100015  struct crtos_memory (16)         give them back (off line still): which; size 0 if none
 *
 * Errors of ENABLE (negative errno of the ioctl):
 *   EBUSY   already enabled, or the hypervisor memory is in use by somebody else, or SVM is in use (KVM)
 *   EINVAL  configuration or image malformed, signature, revision, sizes; CPU set is not the online set
 *   ENOMEM  hypervisor memory too small
 *   ENODEV  no SVM / nested paging in this CPU, or switched off by the firmware
 *   EIO     hypervisor refused in a later step: its console names the cause
 *   ENOENT  hypervisor memory is not reserved (memmap= missing): it is System RAM
 * Errors of MEMORY_*: EBUSY (enabled, or memory is taken already, or a block does not get empty), EINVAL (no whole blocks), ENOMEM.
 * Errors of CELL_CREATE: EBUSY (CPU cannot go off line, or a cell is locked), EINVAL (bad configuration),
 *   EEXIST (name or id taken), ENOMEM (pool exhausted, or a region that root does not own), E2BIG, EPERM (not root).
 * Every other CELL_*: ENOENT no such cell, EPERM refused by a locked or unwilling cell, EINVAL.
 *
 * read() returns what the hypervisor console has printed (all cells' debug putc included) since the last read of
 * this open file; it blocks while there is nothing new unless O_NONBLOCK (EAGAIN). Text lost to the 2 KiB ring is skipped.
 */
#ifndef CRTOS_UAPI_H
#define CRTOS_UAPI_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define CRTOS_NAME_LEN 32

struct crtos_enable {
	__u64 config;		/* system configuration, revision 14, complete with root cell */
	__u64 config_size;
	__u64 image;		/* flat hypervisor image, header first */
	__u64 image_size;
};

struct crtos_cell_create {
	__u64 config;
	__u32 config_size;
	__u32 padding;
};

struct crtos_cell_id {
	__s32 id;		/* -1: look up by name */
	__u32 padding;
	char name[CRTOS_NAME_LEN];
};

struct crtos_image {
	__u64 source;		/* user address */
	__u64 size;
	__u64 target;		/* guest-physical address in the cell */
	__u64 padding;
};

struct crtos_cell_load {
	struct crtos_cell_id id;
	__u32 num_images;	/* at most CRTOS_MAX_IMAGES */
	__u32 padding;
	struct crtos_image image[];
};

#define CRTOS_MAX_IMAGES 16

struct crtos_query {
	__u32 code;		/* 5 hypervisor info, 6 cell state, 7 CPU info, CRTOS_HC_CELL_FAILURE */
	__u32 padding;
	__u64 arg1;
	__u64 arg2;
	__s64 result;		/* the hypervisor's answer, negative: its error */
};

/*
 * Why a cell failed: arg1 = cell id, arg2 = field.
 * 0 reason (enum below), 1 CPU, 2 instruction pointer, 3 address (guest-physical, port, MSR, hypercall, ...), 4 detail,
 * 5 code segment base, 6 and 7 the first 16 bytes of the instruction (zeros behind what can be read). Reasons: 0 none, 1 memory access outside of the cell, 2 port access, 3 MSR, 4 triple fault,
 * 5 undecodable access, 6 forbidden PCI access, 7 forbidden IPI or interrupt target, 8 unexpected exit, 9 message timeout,
 * 10 control register, 11 invalid guest state.
 */
#define CRTOS_HC_CELL_FAILURE 0x100

struct crtos_cell_info {
	__u32 index;		/* in: 0 is the root cell */
	__s32 id;
	__s32 state;		/* hypercall 6: 0 running, 1 running and locked, 2 shut down, 3 failed, 4 wrong revision */
	__u32 num_cpus;
	char name[CRTOS_NAME_LEN];
	__u64 cpu_mask[4];
};

struct crtos_cell_config {
	struct crtos_cell_id id;	/* not the root cell */
	__u64 buffer;
	__u64 size;			/* of the buffer; E2BIG if the configuration is bigger */
};

struct crtos_memory {
	__u64 start;
	__u64 size;
};

#define CRTOS_ENABLE       _IOW(0, 0x10, struct crtos_enable)
#define CRTOS_DISABLE      _IO(0, 1)
#define CRTOS_CELL_CREATE  _IOW(0, 2, struct crtos_cell_create)
#define CRTOS_CELL_LOAD    _IOW(0, 3, struct crtos_cell_load)
#define CRTOS_CELL_START   _IOW(0, 4, struct crtos_cell_id)
#define CRTOS_CELL_DESTROY _IOW(0, 5, struct crtos_cell_id)
#define CRTOS_QUERY        _IOWR(0, 0x11, struct crtos_query)
#define CRTOS_CELL_INFO    _IOWR(0, 0x12, struct crtos_cell_info)
#define CRTOS_CELL_CONFIG  _IOWR(0, 0x13, struct crtos_cell_config)
#define CRTOS_MEMORY_TAKE  _IOW(0, 0x14, struct crtos_memory)
#define CRTOS_MEMORY_GIVE  _IOWR(0, 0x15, struct crtos_memory)

#endif
