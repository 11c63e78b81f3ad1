// SPDX-License-Identifier: GPL-2.0-only
/*
 * The pages of the application pool in proxies' windows.
 *
 * The real-time side publishes which page of the pool lies where (the mirror); a fault in a window looks that up. It believes
 * nothing: every index is bounded. A page is inserted only after its held bit was set and the mirror, looked at again, still
 * shows it; so the real-time side, which unpublishes first and looks at the bit then, never gives away a page that a proxy can reach.
 *
 * The pages have struct pages, so the kernel can pin them (O_DIRECT, vmsplice, shared futexes). Taking a page out of the
 * windows does not end a pin: its held bit stays until page_ref_count() is back at 1. While such pages exist the module stays.
 */
#include <linux/bitmap.h>
#include <linux/memremap.h>
#include <linux/module.h>
#include <linux/mount.h>
#include <linux/nospec.h>
#include <linux/pfn_t.h>
#include <linux/pseudo_fs.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>
#include <linux/workqueue.h>

#include "shadow.h"

#define FS_MAGIC	0x43525453
#define PIN_RECHECK	msecs_to_jiffies(10)

static struct vfsmount *mount;
static struct inode *page_inode;	/* what the pages belong to: shared futexes are named by it and the index */

static struct {
	spinlock_t lock;
	u64 phys;
	unsigned long count;
	u32 *windows;			/* in how many places of windows each page may be mapped */
	unsigned long *pinned;		/* in no window any more, but still referenced */
	unsigned long mapped_count, pinned_count;
	unsigned long *held;		/* in shared memory; NULL without device */
	struct dev_pagemap map;
} pool = { .lock = __SPIN_LOCK_UNLOCKED(pool.lock) };

static struct page *pool_page(unsigned long index)
{
	return pfn_to_page(PHYS_PFN(pool.phys) + index);
}

/* ---- which pages are held ---- */

static void recheck_pins(struct work_struct *work);
static DECLARE_DELAYED_WORK(recheck_work, recheck_pins);

static void pin_gone(unsigned long index)
{
	clear_bit(index, pool.pinned);
	if (!--pool.pinned_count)
		module_put(THIS_MODULE);
}

static void page_get(unsigned long index)
{
	spin_lock(&pool.lock);
	if (!pool.windows[index]++) {
		pool.mapped_count++;
		if (test_bit(index, pool.pinned))
			pin_gone(index);
		if (pool.held)
			set_bit(index, pool.held);
	}
	spin_unlock(&pool.lock);
	smp_mb();	/* the bit is visible before the mirror is looked at again */
}

static void page_put(unsigned long index)
{
	spin_lock(&pool.lock);
	if (!--pool.windows[index]) {
		pool.mapped_count--;
		if (page_ref_count(pool_page(index)) == 1) {
			smp_mb();	/* all use of the page is over before it is said to be */
			if (pool.held)
				clear_bit(index, pool.held);
		} else if (!test_and_set_bit(index, pool.pinned)) {
			if (!pool.pinned_count++)
				__module_get(THIS_MODULE);
			schedule_delayed_work(&recheck_work, PIN_RECHECK);
		}
	}
	spin_unlock(&pool.lock);
}

static void recheck_pins(struct work_struct *work)
{
	unsigned long index;

	spin_lock(&pool.lock);
	if (pool.pinned_count)
		for_each_set_bit(index, pool.pinned, pool.count) {
			if (page_ref_count(pool_page(index)) != 1)
				continue;
			smp_mb();
			if (pool.held)
				clear_bit(index, pool.held);
			pin_gone(index);
			if (!pool.pinned_count)
				break;
		}
	if (pool.pinned_count)
		schedule_delayed_work(&recheck_work, PIN_RECHECK);
	spin_unlock(&pool.lock);
}

void shadow_pool_count(struct crtos_shadow_status *status)
{
	spin_lock(&pool.lock);
	status->pool_pages = pool.count;
	status->pages_mapped = pool.mapped_count;
	status->pages_pinned = pool.pinned_count;
	spin_unlock(&pool.lock);
}

/* ---- the mirror ---- */

static u64 mirror_walk(u32 root, u64 page)
{
	const u64 *nodes = (void *)shadow.rt + RT_MIRROR;
	u64 count = (shadow.section_size - RT_MIRROR) >> PAGE_SHIFT;
	u64 node = root;
	int level;

	for (level = 3; node < count; level--) {
		u64 entry;

		node = array_index_nospec(node, count);
		entry = READ_ONCE(nodes[node * 512 + ((page >> (9 * level)) & 511)]);
		if (!(entry & MIRROR_PRESENT))
			return 0;
		if (!level)
			return entry >> MIRROR_INDEX_SHIFT < pool.count ? entry : 0;
		node = entry >> MIRROR_INDEX_SHIFT;
	}
	return 0;
}

/* The mirror's entry for a page of the window; 0: nothing there. Caller holds device and process->sem. */
static u64 mirror_entry(struct shadow_process *process, u64 page)
{
	const struct thread_entry *thread;
	int leader = READ_ONCE(process->leader);
	u64 entry;

	if (process->lost || !shadow.pdev || leader < 0 || READ_ONCE(process->dead))
		return 0;
	if (page < WINDOW_START >> PAGE_SHIFT || page >= WINDOW_END >> PAGE_SHIFT)
		return 0;
	thread = (void *)shadow.rt + RT_THREADS + leader * sizeof(*thread);
	if (READ_ONCE(thread->generation) != process->generation)
		return 0;
	smp_rmb();
	entry = mirror_walk(READ_ONCE(thread->mirror_root), page);
	smp_rmb();
	return READ_ONCE(thread->generation) == process->generation ? entry : 0;
}

static vm_fault_t insert_page(struct shadow_process *process, struct vm_fault *vmf, u64 page)
{
	u64 entry = mirror_entry(process, page);
	unsigned long index = entry >> MIRROR_INDEX_SHIFT;
	bool write = vmf->flags & FAULT_FLAG_WRITE;
	void *recorded;
	vm_flags_t flags = vmf->vma->vm_flags;

	if (!entry || (write && !(entry & MIRROR_WRITABLE)))
		return VM_FAULT_SIGBUS;
	index = array_index_nospec(index, pool.count);

	if (!xa_load(&process->pages, page) && xa_reserve(&process->pages, page, GFP_KERNEL))
		return VM_FAULT_OOM;
	xa_lock(&process->pages);
	recorded = xa_load(&process->pages, page);
	if (!recorded) {
		page_get(index);
		recorded = xa_mk_value(index);
		__xa_store(&process->pages, page, recorded, GFP_NOWAIT);	/* reserved: needs no memory */
		if (mirror_entry(process, page) >> MIRROR_INDEX_SHIFT != index) {
			__xa_erase(&process->pages, page);
			page_put(index);
			xa_unlock(&process->pages);
			return VM_FAULT_NOPAGE;	/* it changed: fault again, and see */
		}
	}
	xa_unlock(&process->pages);
	/* Another page than is recorded: the mirror changed without the old page having been taken away. */
	if (xa_to_value(recorded) != index)
		return VM_FAULT_SIGBUS;
	if (!(entry & MIRROR_WRITABLE))
		flags &= ~VM_WRITE;
	return vmf_insert_mixed_prot(vmf->vma, vmf->address, phys_to_pfn_t(pool.phys + PFN_PHYS(index), PFN_DEV | PFN_MAP),
				     vm_get_page_prot(flags));
}

static vm_fault_t shadow_fault(struct vm_fault *vmf)
{
	struct shadow_process *process = vmf->vma->vm_private_data;
	vm_fault_t result;

	down_read(&shadow.device);
	down_read(&process->sem);
	result = insert_page(process, vmf, vmf->pgoff);
	up_read(&process->sem);
	up_read(&shadow.device);
	return result;
}

/* A write to a page that was inserted for reading: the mirror may allow it by now. */
static vm_fault_t shadow_mkwrite(struct vm_fault *vmf)
{
	struct shadow_process *process = vmf->vma->vm_private_data;
	vm_fault_t result = VM_FAULT_SIGBUS;
	void *recorded;
	u64 entry;

	down_read(&shadow.device);
	down_read(&process->sem);
	entry = mirror_entry(process, vmf->pgoff);
	recorded = xa_load(&process->pages, vmf->pgoff);
	if (!recorded)
		result = VM_FAULT_NOPAGE;	/* taken away meanwhile */
	else if (entry & MIRROR_WRITABLE && xa_to_value(recorded) == entry >> MIRROR_INDEX_SHIFT)
		result = 0;
	up_read(&process->sem);
	up_read(&shadow.device);
	return result;
}

const struct vm_operations_struct shadow_vm_ops = {
	.fault = shadow_fault,
	.pfn_mkwrite = shadow_mkwrite,
};

static void take(struct shadow_process *process, u64 first, u64 last)
{
	unsigned long page;
	void *recorded;

	unmap_mapping_range(process->inode->i_mapping, first << PAGE_SHIFT, (last - first + 1) << PAGE_SHIFT, 1);
	xa_for_each_range(&process->pages, page, recorded, first, last) {
		xa_erase(&process->pages, page);
		page_put(xa_to_value(recorded));
	}
}

/* Takes window pages first..=last away from the process; what is pinned stays held until it is not. */
void shadow_pool_take(struct shadow_process *process, u64 first, u64 last)
{
	down_write(&process->sem);
	take(process, first, last);
	up_write(&process->sem);
}

/* Takes all pages away, for good. */
void shadow_pool_take_all(struct shadow_process *process)
{
	down_write(&process->sem);
	process->lost = true;
	take(process, WINDOW_START >> PAGE_SHIFT, (WINDOW_END >> PAGE_SHIFT) - 1);
	up_write(&process->sem);
}

/* ---- the pool ---- */

static void pool_close(void)
{
	unsigned long index;

	if (!pool.count)
		return;
	for (index = 0; index < pool.count; index++)
		pool_page(index)->mapping = NULL;
	memunmap_pages(&pool.map);
	vfree(pool.windows);
	bitmap_free(pool.pinned);
	pool.windows = NULL;
	pool.pinned = NULL;
	pool.count = 0;
}

static int pool_open(u64 phys, u64 size)
{
	unsigned long index, count = size >> PAGE_SHIFT;
	void *mapped;

	pool.windows = vzalloc(array_size(count, sizeof(*pool.windows)));
	pool.pinned = bitmap_zalloc(count, GFP_KERNEL);
	if (!pool.windows || !pool.pinned) {
		mapped = ERR_PTR(-ENOMEM);
	} else {
		memset(&pool.map, 0, sizeof(pool.map));
		pool.map.type = MEMORY_DEVICE_GENERIC;
		pool.map.range.start = phys;
		pool.map.range.end = phys + size - 1;
		pool.map.nr_range = 1;
		mapped = memremap_pages(&pool.map, NUMA_NO_NODE);
	}
	if (IS_ERR(mapped)) {
		vfree(pool.windows);
		bitmap_free(pool.pinned);
		pool.windows = NULL;
		pool.pinned = NULL;
		return PTR_ERR(mapped);
	}
	pool.phys = phys;
	pool.count = count;
	for (index = 0; index < count; index++) {
		struct page *page = pool_page(index);

		page->mapping = page_inode->i_mapping;
		page->index = index;
	}
	return 0;
}

/* The device is there: `held` is its (zeroed) bitmap. */
int shadow_pool_attach(u64 phys, u64 size, unsigned long *held)
{
	int err = 0;

	if (!IS_ALIGNED(phys | size, PMD_SIZE)) {
		pr_err("crtos: shadow: the pool at %#llx, %#llx bytes, is not made of whole 2 MiB\n", phys, size);
		return -EINVAL;
	}
	if (pool.count && (phys != pool.phys || size >> PAGE_SHIFT != pool.count)) {
		if (pool.pinned_count) {
			pr_err("crtos: shadow: %lu pages of the last pool are still pinned\n", pool.pinned_count);
			return -EBUSY;
		}
		pool_close();
	}
	if (!pool.count)
		err = pool_open(phys, size);
	if (err)
		return err;
	spin_lock(&pool.lock);
	pool.held = held;
	bitmap_copy(held, pool.pinned, pool.count);
	spin_unlock(&pool.lock);
	return 0;
}

/* Takes all pages from the processes that have attached (or from all that could). */
void shadow_pool_lose(bool all)
{
	struct shadow_process *process;
	bool again;

	do {
		again = false;
		spin_lock(&shadow.lock);
		list_for_each_entry(process, &shadow.processes, list) {
			if (process->lost || (process->leader < 0 && !all))
				continue;
			kref_get(&process->ref);
			again = true;
			break;
		}
		spin_unlock(&shadow.lock);
		if (again) {
			shadow_pool_take_all(process);
			shadow_process_put(process);
		}
	} while (again);
}

/* The device goes: no process keeps a page. Caller holds device for writing. */
void shadow_pool_detach(void)
{
	shadow_pool_lose(true);
	spin_lock(&pool.lock);
	pool.held = NULL;
	spin_unlock(&pool.lock);
	if (!pool.pinned_count)
		pool_close();
}

/* ---- inodes of our own ---- */

static int fs_context(struct fs_context *context)
{
	return init_pseudo(context, FS_MAGIC) ? 0 : -ENOMEM;
}

/* No owner: the mount would keep the module from being unloaded, and it goes before the module does. */
static struct file_system_type shadow_fs = {
	.name = "crtos_shadow",
	.init_fs_context = fs_context,
	.kill_sb = kill_anon_super,
};

struct inode *shadow_pool_inode(void)
{
	return alloc_anon_inode(mount->mnt_sb);
}

int shadow_pool_init(void)
{
	mount = kern_mount(&shadow_fs);
	if (IS_ERR(mount))
		return PTR_ERR(mount);
	page_inode = shadow_pool_inode();
	if (IS_ERR(page_inode)) {
		kern_unmount(mount);
		return PTR_ERR(page_inode);
	}
	return 0;
}

void shadow_pool_exit(void)
{
	cancel_delayed_work_sync(&recheck_work);
	pool_close();
	iput(page_inode);
	kern_unmount(mount);
}
