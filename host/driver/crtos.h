/* SPDX-License-Identifier: GPL-2.0-only */
/* What the files of crtos.ko know of each other. All functions below are called with crtos_lock held. */
#ifndef CRTOS_H
#define CRTOS_H

#include <linux/cpumask.h>
#include <linux/mutex.h>
#include <linux/types.h>

#include "uapi.h"

/* Hypercalls of the hypervisor that the driver makes itself. */
#define HC_CELL_CREATE		1
#define HC_CELL_START		2
#define HC_CELL_SET_LOADABLE	3
#define HC_CELL_DESTROY		4
#define HC_HYPERVISOR_INFO	5
#define HC_CELL_STATE		6
#define HC_CPU_INFO		7

#define CELL_HEADER_SIZE	132
#define SYSTEM_HEADER_SIZE	0x164	/* up to the root cell's descriptor */
#define CONFIG_REVISION		14
#define MAX_CONFIG_SIZE		(1 << 16)

/* Cell descriptor: the fields the driver must know; everything else is checked by the hypervisor. */
struct cell_desc {
	char signature[5];
	u8 architecture;
	u16 revision;
	char name[CRTOS_NAME_LEN];
	u32 id;
	u32 flags;
	u32 cpu_set_size;
	u32 num_memory;
	u32 num_cache;
	u32 num_irqchips;
	u32 num_pio;
	u32 num_pci;
	u32 num_pci_caps;
	u32 num_stream_ids;
	u8 rest[52];
} __packed;

struct cell_memory {
	u64 phys;
	u64 virt;
	u64 size;
	u64 flags;
} __packed;

#define MEM_WRITE	0x2
#define MEM_LOADABLE	0x40

struct cell_pci {
	u8 type;
	u8 iommu;
	u16 domain;
	u16 bdf;
	u8 rest[50];
} __packed;

#define PCI_TYPE_IVSHMEM	3

static_assert(sizeof(struct cell_desc) == CELL_HEADER_SIZE);
static_assert(sizeof(struct cell_pci) == 56);

/* Checked pointers into a cell descriptor. */
struct cell_view {
	const struct cell_desc *desc;
	const struct cell_memory *memory;
	const struct cell_pci *pci;
	struct cpumask cpus;
};

extern struct mutex crtos_lock;
extern bool crtos_enabled;

/* cells.c */
int crtos_cell_parse(const void *config, size_t size, struct cell_view *view);
int crtos_cells_add_root(const void *config, size_t size);
int crtos_cells_root(struct cell_view *view);
void crtos_cells_remove_root(void);
bool crtos_cells_any(void);
long crtos_cell_create(const struct crtos_cell_create *arg);
long crtos_cell_load(const struct crtos_cell_load *arg, const struct crtos_image *images);
long crtos_cell_start(const struct crtos_cell_id *id);
long crtos_cell_destroy(const struct crtos_cell_id *id);
long crtos_cell_config(const struct crtos_cell_config *arg);
long crtos_cell_info(struct crtos_cell_info *info);

/* hypervisor.c */
/* The result in EAX is 32 bits wide, but for CRTOS_HC_CELL_FAILURE. */
long crtos_hypercall(u32 code, u64 arg1, u64 arg2);
s64 crtos_hypercall_long(u32 code, u64 arg1, u64 arg2);
int crtos_hv_enable(const struct crtos_enable *arg);
int crtos_hv_disable(void);
ssize_t crtos_console_read(u32 *position, char *text, size_t size);

/* memory.c */
int crtos_memory_take(const struct crtos_memory *range);
int crtos_memory_give(struct crtos_memory *range);

/* guard.c */
extern struct cpumask crtos_given;
extern struct cpumask crtos_moving;
int crtos_guard_init(void);
void crtos_guard_exit(void);

/* entry.S */
extern char crtos_entry_page[];
long crtos_enter(unsigned int cpu, u64 boot_cr3, u64 entry);
long crtos_leave(void);

/* shadow.c: the ivshmem shadow channel; called once at module load and unload, without the lock. */
#ifdef CRTOS_SHADOW
int crtos_shadow_init(void);
void crtos_shadow_exit(void);
#else
static inline int crtos_shadow_init(void) { return 0; }
static inline void crtos_shadow_exit(void) { }
#endif

#endif
