// SPDX-License-Identifier: GPL-2.0-only
/*
 * Enter and leave the hypervisor on all CPUs, and read its console.
 *
 * Layout of the hypervisor memory: image | per-CPU areas | system configuration | page pool | boot tables (the last 64 KiB).
 * The boot tables map the hypervisor memory at its fixed address and the page of entry.S at its Linux address, nothing else.
 */
#include <linux/cpu.h>
#include <linux/io.h>
#include <linux/ioport.h>
#include <linux/mm.h>
#include <linux/pci.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>
#include <asm/cpufeature.h>
#include <asm/msr.h>
#include <asm/tsc.h>

#include "crtos.h"

#define HV_BASE			0xfffffffff0000000ULL
#define HV_MAX_SIZE		(255ULL << 20)
#define BOOT_TABLES_SIZE	(64 << 10)
#define HEADER_SIZE		80
#define CONSOLE_TEXT		2048

struct hv_header {
	char signature[8];
	u64 core_size;
	u64 percpu_size;
	u64 entry;
	u64 console_page;
	u64 gcov_info;
	u32 max_cpus;
	u32 online_cpus;
	u64 debug_console_base;
	u64 unused[2];
} __packed;
static_assert(sizeof(struct hv_header) == HEADER_SIZE);

struct hv_console {
	u32 busy;
	u32 tail;
	char text[CONSOLE_TEXT];
};

struct system_desc {
	char signature[5];
	u8 architecture;
	u16 revision;
	u32 flags;
	struct cell_memory hypervisor_memory;
	u8 debug_console[32];
	u8 platform[0x140 - 0x4c];
	u32 tsc_khz;
	u32 apic_khz;
	u8 rest[0x164 - 0x148];
} __packed;
static_assert(sizeof(struct system_desc) == SYSTEM_HEADER_SIZE);

static struct {
	u64 phys;
	u64 size;
	void *map;
	struct hv_console *console;
	u64 boot_cr3;
	u64 entry;
	atomic_t entered;
	int error;
} hv;

s64 crtos_hypercall_long(u32 code, u64 arg1, u64 arg2)
{
	long result = code;

	asm volatile("vmmcall" : "+a"(result), "+D"(arg1), "+S"(arg2) : : "memory");
	return code == CRTOS_HC_CELL_FAILURE ? result : (int)result;
}

long crtos_hypercall(u32 code, u64 arg1, u64 arg2)
{
	return crtos_hypercall_long(code, arg1, arg2);
}

/* ---- boot tables ---- */

static u64 boot_next, boot_end;

static u64 boot_page(void)
{
	u64 page = boot_next;

	if (page >= boot_end)
		return 0;
	boot_next += PAGE_SIZE;
	return page;
}

/* Maps one page (level 1: 4 KiB, level 2: 2 MiB) below the root at boot_cr3. */
static int boot_map(u64 virt, u64 phys, int leaf)
{
	u64 table = hv.boot_cr3;
	int level = (native_read_cr4() & X86_CR4_LA57) ? 5 : 4;

	for (;; level--) {
		u64 *entry = hv.map + (table - hv.phys) + ((virt >> (12 + 9 * (level - 1))) & 511) * 8;

		if (level == leaf) {
			*entry = phys | _PAGE_PRESENT | _PAGE_RW | (leaf == 2 ? _PAGE_PSE : 0);
			return 0;
		}
		if (*entry & _PAGE_PSE && level == 2)
			return -EINVAL;
		if (!(*entry & _PAGE_PRESENT)) {
			u64 page = boot_page();

			if (!page)
				return -ENOMEM;
			*entry = page | _PAGE_PRESENT | _PAGE_RW;
		}
		table = *entry & PHYSICAL_PAGE_MASK;
	}
}

static int build_boot_tables(void)
{
	u64 offset;
	int err;

	boot_next = ALIGN(hv.phys + hv.size - BOOT_TABLES_SIZE, 2 * PAGE_SIZE);
	boot_end = hv.phys + hv.size;
	/* with page-table isolation the NMI and interrupt entry code clears bit 12 of CR3: keep it clear */
	hv.boot_cr3 = boot_next;
	boot_next += PAGE_SIZE;
	for (offset = 0; offset < hv.size; offset += 2 << 20) {
		err = boot_map(HV_BASE + offset, hv.phys + offset, 2);
		if (err)
			return err;
	}
	return boot_map((unsigned long)crtos_entry_page, page_to_phys(vmalloc_to_page(crtos_entry_page)), 1);
}

/* ---- the root cell's virtual PCI functions ---- */

/*
 * Firmware that lists the functions behind an IOMMU one by one does not know one that appears later. Its interrupts are remapped
 * like those of its neighbours on the bus.
 */
static void pci_function_msi(struct pci_dev *dev)
{
	struct pci_dev *other;

	if (dev_get_msi_domain(&dev->dev))
		return;
	list_for_each_entry(other, &dev->bus->devices, bus_list) {
		if (dev_get_msi_domain(&other->dev)) {
			dev_set_msi_domain(&dev->dev, dev_get_msi_domain(&other->dev));
			return;
		}
	}
}

static void pci_functions_add(const struct cell_view *root)
{
	u32 i;

	pci_lock_rescan_remove();
	for (i = 0; i < root->desc->num_pci; i++) {
		const struct cell_pci *function = &root->pci[i];
		struct pci_bus *bus;
		struct pci_dev *dev;

		if (function->type != PCI_TYPE_IVSHMEM)
			continue;
		bus = pci_find_bus(function->domain, function->bdf >> 8);
		if (!bus) {
			pr_warn("crtos: no bus for the virtual PCI function %04x\n", function->bdf);
			continue;
		}
		dev = pci_scan_single_device(bus, function->bdf & 0xff);
		if (!dev) {
			pr_warn("crtos: virtual PCI function %04x did not answer\n", function->bdf);
			continue;
		}
		pci_function_msi(dev);
		pci_bus_assign_resources(bus);
		pci_bus_add_device(dev);
	}
	pci_unlock_rescan_remove();
}

static void pci_functions_remove(const struct cell_view *root)
{
	u32 i;

	for (i = 0; i < root->desc->num_pci; i++) {
		const struct cell_pci *function = &root->pci[i];
		struct pci_dev *dev;

		if (function->type != PCI_TYPE_IVSHMEM)
			continue;
		dev = pci_get_domain_bus_and_slot(function->domain, function->bdf >> 8, function->bdf & 0xff);
		if (dev) {
			pci_stop_and_remove_bus_device_locked(dev);
			pci_dev_put(dev);
		}
	}
}

/* ---- enable and disable ---- */

static void check_cpu(void *failed)
{
	u64 efer, vm_cr;

	rdmsrl(MSR_EFER, efer);
	if (efer & EFER_SVME)
		WRITE_ONCE(*(int *)failed, -EBUSY);
	if (!rdmsrl_safe(MSR_VM_CR, &vm_cr) && (vm_cr & (1 << 4)))
		WRITE_ONCE(*(int *)failed, -ENODEV);
}

static int check_machine(void)
{
	int failed = 0;

	if (!boot_cpu_has(X86_FEATURE_SVM)) {
		pr_err("crtos: this CPU has no SVM (AMD virtualisation)\n");
		return -ENODEV;
	}
	if (!boot_cpu_has(X86_FEATURE_NPT)) {
		pr_err("crtos: this CPU has no nested paging\n");
		return -ENODEV;
	}
	on_each_cpu(check_cpu, &failed, 1);
	if (failed == -EBUSY)
		pr_err("crtos: SVM is in use (kvm_amd loaded?)\n");
	else if (failed)
		pr_err("crtos: SVM is switched off by the firmware\n");
	return failed;
}

static void enter_cpu(void *unused)
{
	long result = crtos_enter(smp_processor_id(), hv.boot_cr3, hv.entry);

	if (result)
		WRITE_ONCE(hv.error, (int)result);
	else
		atomic_inc(&hv.entered);
}

static void leave_cpu(void *unused)
{
	long result = crtos_leave();

	if (result)
		WRITE_ONCE(hv.error, (int)result);
	else
		atomic_dec(&hv.entered);
}

static void log_console(void)
{
	static char text[CONSOLE_TEXT + 1];
	u32 position = 0;
	char *line, *rest = text;
	ssize_t size = crtos_console_read(&position, text, CONSOLE_TEXT);

	if (size <= 0)
		return;
	text[size] = 0;
	while ((line = strsep(&rest, "\n")))
		if (*line)
			pr_err("crtos: hypervisor: %s\n", line);
}

static void release_memory(void)
{
	hv.console = NULL;
	if (hv.map)
		memunmap(hv.map);
	hv.map = NULL;
	if (hv.size)
		release_mem_region(hv.phys, hv.size);
	hv.size = 0;
}

static int place(const struct system_desc *system, size_t config_size, const void *image, size_t image_size,
		 const struct cell_view *root)
{
	const struct hv_header *in = image;
	struct system_desc *placed;
	struct hv_header *header;
	u32 max_cpus = cpumask_last(&root->cpus) + 1;
	u64 config_offset;

	if (image_size < HEADER_SIZE || memcmp(in->signature, "JAILHOUS", 8)) {
		pr_err("crtos: not a hypervisor image\n");
		return -EINVAL;
	}
	if (in->core_size < image_size || in->core_size > hv.size || !in->percpu_size || in->percpu_size > hv.size ||
	    !PAGE_ALIGNED(in->core_size) || !PAGE_ALIGNED(in->percpu_size) || in->entry >= in->core_size ||
	    in->console_page > in->core_size - sizeof(struct hv_console)) {
		pr_err("crtos: the hypervisor image's header is inconsistent\n");
		return -EINVAL;
	}
	config_offset = in->core_size + max_cpus * in->percpu_size;
	if (config_offset + config_size + BOOT_TABLES_SIZE > hv.size) {
		pr_err("crtos: hypervisor memory too small: %#llx needed, %#llx reserved\n",
		       config_offset + config_size + BOOT_TABLES_SIZE, hv.size);
		return -ENOMEM;
	}
	memset(hv.map, 0, hv.size);
	memcpy(hv.map, image, image_size);
	memcpy(hv.map + config_offset, system, config_size);
	placed = hv.map + config_offset;
	if (!placed->tsc_khz)
		placed->tsc_khz = tsc_khz;
	header = hv.map;
	header->max_cpus = max_cpus;
	header->online_cpus = num_online_cpus();
	hv.console = hv.map + header->console_page;
	hv.entry = HV_BASE + header->entry;
	return build_boot_tables();
}

static int do_enable(const struct system_desc *system, size_t config_size, const void *image, size_t image_size)
{
	const void *root_config = (const void *)system + SYSTEM_HEADER_SIZE;
	const struct cell_memory *memory = &system->hypervisor_memory;
	struct cell_view root;
	int err;

	if (config_size < SYSTEM_HEADER_SIZE + CELL_HEADER_SIZE || memcmp(system->signature, "JHSYS", 5) ||
	    system->architecture != 0 || system->revision != CONFIG_REVISION) {
		pr_err("crtos: not a system configuration for x86, revision %d\n", CONFIG_REVISION);
		return -EINVAL;
	}
	err = crtos_cell_parse(root_config, config_size - SYSTEM_HEADER_SIZE, &root);
	if (err)
		return err;
	if (!cpumask_equal(&root.cpus, cpu_online_mask)) {
		pr_err("crtos: the root cell has CPUs %*pbl, on line are %*pbl\n", cpumask_pr_args(&root.cpus),
		       cpumask_pr_args(cpu_online_mask));
		return -EINVAL;
	}
	err = check_machine();
	if (err)
		return err;
	if (!memory->size || memory->size > HV_MAX_SIZE || !IS_ALIGNED(memory->phys, 2 << 20) ||
	    !PAGE_ALIGNED(memory->size) || memory->phys + memory->size < memory->phys) {
		pr_err("crtos: bad hypervisor memory %#llx at %#llx\n", memory->size, memory->phys);
		return -EINVAL;
	}
	if (region_intersects(memory->phys, memory->size, IORESOURCE_SYSTEM_RAM, IORES_DESC_NONE) != REGION_DISJOINT) {
		pr_err("crtos: hypervisor memory at %#llx is not reserved: add memmap=%lluM$%#llx to the kernel command line\n",
		       memory->phys, memory->size >> 20, memory->phys);
		return -ENOENT;
	}
	if (!request_mem_region(memory->phys, memory->size, "crtos hypervisor")) {
		pr_err("crtos: hypervisor memory at %#llx is in use\n", memory->phys);
		return -EBUSY;
	}
	hv.phys = memory->phys;
	hv.size = memory->size;
	hv.map = memremap(hv.phys, hv.size, MEMREMAP_WB);
	if (!hv.map) {
		err = -ENOMEM;
		goto fail;
	}
	err = place(system, config_size, image, image_size, &root);
	if (err)
		goto fail;
	err = crtos_cells_add_root(root_config, config_size - SYSTEM_HEADER_SIZE);
	if (err)
		goto fail;

	hv.error = 0;
	atomic_set(&hv.entered, 0);
	preempt_disable();
	on_each_cpu(enter_cpu, NULL, 1);
	preempt_enable();
	if (hv.error) {
		/* all CPUs or none: the hypervisor lets no CPU in when one fails */
		err = hv.error;
		pr_err("crtos: the hypervisor refused: error %d\n", err);
		log_console();
		WARN_ON(atomic_read(&hv.entered));
		crtos_cells_remove_root();
		goto fail;
	}
	crtos_enabled = true;
	__module_get(THIS_MODULE);
	pci_functions_add(&root);
	pr_info("crtos: hypervisor enabled on %d CPUs\n", atomic_read(&hv.entered));
	return 0;

fail:
	release_memory();
	return err;
}

int crtos_hv_enable(const struct crtos_enable *arg)
{
	void *config = NULL, *image = NULL;
	int err;

	if (crtos_enabled)
		return -EBUSY;
	if (arg->config_size > MAX_CONFIG_SIZE || arg->image_size > HV_MAX_SIZE)
		return -EINVAL;
	config = vmemdup_user(u64_to_user_ptr(arg->config), arg->config_size);
	if (IS_ERR(config))
		return PTR_ERR(config);
	image = vmemdup_user(u64_to_user_ptr(arg->image), arg->image_size);
	if (IS_ERR(image)) {
		kvfree(config);
		return PTR_ERR(image);
	}
	cpus_read_lock();
	err = do_enable(config, arg->config_size, image, arg->image_size);
	cpus_read_unlock();
	kvfree(image);
	kvfree(config);
	return err;
}

int crtos_hv_disable(void)
{
	struct cell_view root;
	int err;

	if (!crtos_enabled)
		return -EINVAL;
	if (crtos_cells_any())
		return -EBUSY;
	err = crtos_cells_root(&root);
	if (err)
		return err;
	cpus_read_lock();
	if (!cpumask_equal(&root.cpus, cpu_online_mask)) {
		pr_err("crtos: bring all CPUs on line first\n");
		err = -EBUSY;
		goto out;
	}
	pci_functions_remove(&root);
	hv.error = 0;
	preempt_disable();
	on_each_cpu(leave_cpu, NULL, 1);
	preempt_enable();
	err = hv.error;
	if (err) {
		pci_functions_add(&root);
		goto out;
	}
	crtos_enabled = false;
	crtos_cells_remove_root();
	release_memory();
	module_put(THIS_MODULE);
	pr_info("crtos: hypervisor disabled\n");
out:
	cpus_read_unlock();
	return err;
}

/* ---- console ---- */

/* Copies what was printed since *position; 0 if nothing. */
ssize_t crtos_console_read(u32 *position, char *text, size_t size)
{
	u32 tail, start, n;
	int tries;

	if (!hv.console)
		return -ENXIO;
	for (tries = 0; tries < 1000; tries++) {
		tail = READ_ONCE(hv.console->tail);
		if (READ_ONCE(hv.console->busy)) {
			cpu_relax();
			continue;
		}
		smp_rmb();
		start = *position;
		if (tail - start > CONSOLE_TEXT)
			start = tail - CONSOLE_TEXT;
		if (tail - start > size)
			tail = start + size;
		for (n = 0; start + n != tail; n++)
			text[n] = hv.console->text[(start + n) % CONSOLE_TEXT];
		smp_rmb();
		if (READ_ONCE(hv.console->busy) || READ_ONCE(hv.console->tail) - start > CONSOLE_TEXT)
			continue;
		*position = tail;
		return n;
	}
	return 0;
}
