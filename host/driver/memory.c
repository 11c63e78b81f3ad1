// SPDX-License-Identifier: GPL-2.0-only
/*
 * Memory blocks that leave the running Linux, and come back. User space takes them off line, and on line again: it can be
 * interrupted when a block does not get empty, and says which blocks. Here they are removed: no page structures, no direct mapping,
 * nothing in Linux that could use them.
 */
#include <linux/io.h>
#include <linux/ioport.h>
#include <linux/memory.h>
#include <linux/memory_hotplug.h>
#include <linux/mm.h>

#include "crtos.h"

static struct {
	struct crtos_memory range;
	int nid;
} taken;

int crtos_memory_take(const struct crtos_memory *range)
{
	u64 block = memory_block_size_bytes(), at;
	int nid = NUMA_NO_NODE, err;

	if (crtos_enabled || taken.range.size)
		return -EBUSY;
	if (!range->size || range->start + range->size < range->start || !IS_ALIGNED(range->start, block) ||
	    !IS_ALIGNED(range->size, block))
		return -EINVAL;
	for (at = range->start; at < range->start + range->size; at += block) {
		if (!pfn_valid(PHYS_PFN(at)))
			return -EINVAL;
		if (at == range->start)
			nid = pfn_to_nid(PHYS_PFN(at));
		else if (pfn_to_nid(PHYS_PFN(at)) != nid)
			return -EINVAL;
	}
	err = offline_and_remove_memory(range->start, range->size);
	if (err)
		return err;
	taken.range = *range;
	taken.nid = nid;
	if (region_intersects(range->start, range->size, IORESOURCE_SYSTEM_RAM, IORES_DESC_NONE) != REGION_DISJOINT) {
		struct crtos_memory unused;

		pr_err("crtos: memory at %#llx does not leave Linux\n", range->start);
		crtos_memory_give(&unused);
		return -EBUSY;
	}
	pr_info("crtos: took %llu MiB at %#llx from Linux\n", range->size >> 20, range->start);
	return 0;
}

/* What was taken is Linux's again, off line. */
int crtos_memory_give(struct crtos_memory *range)
{
	int err;

	if (crtos_enabled)
		return -EBUSY;
	*range = taken.range;
	if (!taken.range.size)
		return 0;
	err = add_memory(taken.nid, taken.range.start, taken.range.size, MHP_NONE);
	if (err) {
		pr_err("crtos: Linux does not take %llu MiB at %#llx back: %d\n", range->size >> 20, range->start, err);
		return err;
	}
	taken.range.size = 0;
	pr_info("crtos: gave %llu MiB at %#llx back to Linux\n", range->size >> 20, range->start);
	return 0;
}
