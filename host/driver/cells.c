// SPDX-License-Identifier: GPL-2.0-only
/* Cells as Linux sees them: which CPUs they took, where their loadable memory is. The hypervisor holds the truth. */
#include <linux/cpu.h>
#include <linux/io.h>
#include <linux/list.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "crtos.h"

struct cell {
	struct list_head link;
	u32 id;
	size_t size;
	struct cpumask taken;		/* off-lined for this cell */
	struct cell_view view;
	u8 config[] __aligned(8);
};

static LIST_HEAD(cells);		/* the root cell first */

int crtos_cell_parse(const void *config, size_t size, struct cell_view *view)
{
	const struct cell_desc *desc = config;
	const u8 *cpu_set = config + CELL_HEADER_SIZE;
	u64 offset;
	u32 bit;

	/* signature and revision are the hypervisor's to check: the root cell inside a system configuration has none */
	if (size < CELL_HEADER_SIZE || !memchr(desc->name, 0, sizeof(desc->name)))
		return -EINVAL;
	if (desc->cpu_set_size > 8192 || desc->num_memory > 1024 || desc->num_cache > 1024 || desc->num_irqchips > 64 ||
	    desc->num_pio > 1024 || desc->num_pci > 1024)
		return -E2BIG;
	offset = CELL_HEADER_SIZE + desc->cpu_set_size;
	view->memory = config + offset;
	offset += desc->num_memory * 32ULL + desc->num_cache * 12ULL + desc->num_irqchips * 32ULL + desc->num_pio * 4ULL;
	view->pci = config + offset;
	offset += desc->num_pci * 56ULL;
	if (offset > size)
		return -EINVAL;
	view->desc = desc;
	cpumask_clear(&view->cpus);
	for (bit = 0; bit < desc->cpu_set_size * 8; bit++) {
		if (!(cpu_set[bit / 8] & (1 << (bit % 8))))
			continue;
		if (bit >= nr_cpu_ids)
			return -EINVAL;
		cpumask_set_cpu(bit, &view->cpus);
	}
	return 0;
}

static struct cell *new_cell(const void *config, size_t size)
{
	struct cell *cell = kzalloc(struct_size(cell, config, size), GFP_KERNEL);
	int err;

	if (!cell)
		return ERR_PTR(-ENOMEM);
	memcpy(cell->config, config, size);
	cell->size = size;
	err = crtos_cell_parse(cell->config, size, &cell->view);
	if (err) {
		kfree(cell);
		return ERR_PTR(err);
	}
	return cell;
}

int crtos_cells_add_root(const void *config, size_t size)
{
	struct cell *cell = new_cell(config, size);

	if (IS_ERR(cell))
		return PTR_ERR(cell);
	list_add(&cell->link, &cells);
	return 0;
}

int crtos_cells_root(struct cell_view *view)
{
	struct cell *root = list_first_entry_or_null(&cells, struct cell, link);

	if (!root)
		return -EINVAL;
	*view = root->view;
	return 0;
}

void crtos_cells_remove_root(void)
{
	struct cell *root = list_first_entry_or_null(&cells, struct cell, link);

	if (root) {
		list_del(&root->link);
		kfree(root);
	}
}

bool crtos_cells_any(void)
{
	return !list_empty(&cells) && !list_is_singular(&cells);
}

/* By id, or by name if the id is -1. The root cell cannot be named. */
static struct cell *find_cell(const struct crtos_cell_id *id)
{
	struct cell *cell;

	list_for_each_entry(cell, &cells, link) {
		if (list_is_first(&cell->link, &cells))
			continue;
		if (id->id >= 0 ? cell->id == id->id : !strncmp(cell->view.desc->name, id->name, CRTOS_NAME_LEN))
			return cell;
	}
	return NULL;
}

static void return_cpus(struct cell *cell)
{
	unsigned int cpu;

	for_each_cpu(cpu, &cell->taken) {
		cpumask_set_cpu(cpu, &crtos_moving);
		if (add_cpu(cpu))
			pr_err("crtos: CPU %u does not come back on line\n", cpu);
		cpumask_clear_cpu(cpu, &crtos_moving);
	}
	cpumask_andnot(&crtos_given, &crtos_given, &cell->taken);
	cpumask_clear(&cell->taken);
}

static int take_cpus(struct cell *cell)
{
	unsigned int cpu;
	int err;

	for_each_cpu(cpu, &cell->view.cpus) {
		if (!cpu_online(cpu))
			continue;
		cpumask_set_cpu(cpu, &crtos_moving);
		err = remove_cpu(cpu);
		cpumask_clear_cpu(cpu, &crtos_moving);
		if (err) {
			pr_err("crtos: CPU %u cannot go off line: %d\n", cpu, err);
			return cpu == 0 ? -EINVAL : err;
		}
		cpumask_set_cpu(cpu, &cell->taken);
		cpumask_set_cpu(cpu, &crtos_given);
	}
	return 0;
}

long crtos_cell_create(const struct crtos_cell_create *arg)
{
	struct cell *cell;
	void *config;
	long result;

	if (arg->config_size > MAX_CONFIG_SIZE)
		return -E2BIG;
	config = memdup_user(u64_to_user_ptr(arg->config), arg->config_size);
	if (IS_ERR(config))
		return PTR_ERR(config);
	cell = arg->config_size < CELL_HEADER_SIZE || memcmp(config, "JHCLL", 5) ? ERR_PTR(-EINVAL) :
									     new_cell(config, arg->config_size);
	kfree(config);
	if (IS_ERR(cell))
		return PTR_ERR(cell);
	result = take_cpus(cell);
	if (!result)
		result = crtos_hypercall(HC_CELL_CREATE, virt_to_phys(cell->config), 0);
	if (result < 0) {
		return_cpus(cell);
		kfree(cell);
		return result;
	}
	cell->id = result;
	list_add_tail(&cell->link, &cells);
	pr_info("crtos: cell %u \"%s\" created\n", cell->id, cell->view.desc->name);
	return result;
}

static int load_image(const struct cell *cell, const struct crtos_image *image)
{
	const struct cell_memory *memory = cell->view.memory;
	u32 i;

	for (i = 0; i < cell->view.desc->num_memory; i++, memory++) {
		u64 offset = image->target - memory->virt;
		void *map;
		int err = 0;

		if ((memory->flags & (MEM_WRITE | MEM_LOADABLE)) != (MEM_WRITE | MEM_LOADABLE) ||
		    image->target < memory->virt || offset >= memory->size || image->size > memory->size - offset)
			continue;
		map = memremap(memory->phys + offset, image->size, MEMREMAP_WB);
		if (!map)
			return -ENOMEM;
		if (copy_from_user(map, u64_to_user_ptr(image->source), image->size))
			err = -EFAULT;
		memunmap(map);
		return err;
	}
	pr_err("crtos: image of %#llx bytes at %#llx is not inside one loadable region of the cell\n", image->size,
	       image->target);
	return -EINVAL;
}

long crtos_cell_load(const struct crtos_cell_load *arg, const struct crtos_image *images)
{
	struct cell *cell = find_cell(&arg->id);
	long err;
	u32 i;

	if (!cell)
		return -ENOENT;
	err = crtos_hypercall(HC_CELL_SET_LOADABLE, cell->id, 0);
	for (i = 0; !err && i < arg->num_images; i++)
		if (images[i].size)
			err = load_image(cell, &images[i]);
	return err;
}

long crtos_cell_start(const struct crtos_cell_id *id)
{
	struct cell *cell = find_cell(id);

	return cell ? crtos_hypercall(HC_CELL_START, cell->id, 0) : -ENOENT;
}

long crtos_cell_destroy(const struct crtos_cell_id *id)
{
	struct cell *cell = find_cell(id);
	long err;

	if (!cell)
		return -ENOENT;
	err = crtos_hypercall(HC_CELL_DESTROY, cell->id, 0);
	if (err)
		return err;
	pr_info("crtos: cell %u \"%s\" destroyed\n", cell->id, cell->view.desc->name);
	list_del(&cell->link);
	return_cpus(cell);
	kfree(cell);
	return 0;
}

long crtos_cell_config(const struct crtos_cell_config *arg)
{
	struct cell *cell = find_cell(&arg->id);

	if (!cell)
		return -ENOENT;
	if (cell->size > arg->size)
		return -E2BIG;
	if (copy_to_user(u64_to_user_ptr(arg->buffer), cell->config, cell->size))
		return -EFAULT;
	return cell->size;
}

long crtos_cell_info(struct crtos_cell_info *info)
{
	struct cell *cell;
	struct cpumask cpus;
	u32 index = 0, cpu;

	list_for_each_entry(cell, &cells, link) {
		if (index++ != info->index)
			continue;
		info->id = cell->id;
		info->state = crtos_hypercall(HC_CELL_STATE, cell->id, 0);
		cpumask_copy(&cpus, &cell->view.cpus);
		if (list_is_first(&cell->link, &cells))		/* what it has, not what it had */
			cpumask_andnot(&cpus, &cpus, &crtos_given);
		info->num_cpus = cpumask_weight(&cpus);
		memcpy(info->name, cell->view.desc->name, sizeof(info->name));
		memset(info->cpu_mask, 0, sizeof(info->cpu_mask));
		for_each_cpu(cpu, &cpus)
			if (cpu < 256)
				info->cpu_mask[cpu / 64] |= 1ULL << (cpu % 64);
		return 0;
	}
	return -ENOENT;
}
