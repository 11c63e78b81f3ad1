// SPDX-License-Identifier: GPL-2.0-only
/*
 * /dev/crtos: enable and disable the hypervisor, manage cells, read the hypervisor's console.
 *
 * Mechanism only: what to load where, and why, is decided in user space. The interface is in uapi.h.
 * While the hypervisor is enabled the module cannot be unloaded.
 */
#include <linux/capability.h>
#include <linux/delay.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "crtos.h"

DEFINE_MUTEX(crtos_lock);
bool crtos_enabled;

static long query(struct crtos_query *query)
{
	switch (query->code) {
	case HC_HYPERVISOR_INFO:
	case HC_CELL_STATE:
	case HC_CPU_INFO:
	case CRTOS_HC_CELL_FAILURE:
		query->result = crtos_hypercall_long(query->code, query->arg1, query->arg2);
		return 0;
	}
	return -EINVAL;
}

static long load(const void __user *user)
{
	const struct crtos_cell_load __user *arg = user;
	struct crtos_cell_load head;
	struct crtos_image *images;
	long err;

	if (copy_from_user(&head, arg, sizeof(head)))
		return -EFAULT;
	if (head.num_images > CRTOS_MAX_IMAGES)
		return -E2BIG;
	images = memdup_user(arg->image, head.num_images * sizeof(*images));
	if (IS_ERR(images))
		return PTR_ERR(images);
	err = crtos_cell_load(&head, images);
	kfree(images);
	return err;
}

static long call(unsigned int number, void __user *user)
{
	union {
		struct crtos_enable enable;
		struct crtos_cell_create create;
		struct crtos_cell_id id;
		struct crtos_query query;
		struct crtos_cell_info info;
		struct crtos_cell_config config;
		struct crtos_memory memory;
	} arg;
	long err;

	if (number == CRTOS_DISABLE)
		return crtos_hv_disable();
	if (number != CRTOS_ENABLE && number != CRTOS_MEMORY_TAKE && number != CRTOS_MEMORY_GIVE && !crtos_enabled)
		return -ENXIO;
	if (number == CRTOS_CELL_LOAD)
		return load(user);
	if (_IOC_SIZE(number) > sizeof(arg))
		return -ENOTTY;
	if (copy_from_user(&arg, user, _IOC_SIZE(number)))
		return -EFAULT;
	switch (number) {
	case CRTOS_ENABLE:
		return crtos_hv_enable(&arg.enable);
	case CRTOS_CELL_CREATE:
		return crtos_cell_create(&arg.create);
	case CRTOS_CELL_START:
		return crtos_cell_start(&arg.id);
	case CRTOS_CELL_DESTROY:
		return crtos_cell_destroy(&arg.id);
	case CRTOS_CELL_CONFIG:
		return crtos_cell_config(&arg.config);
	case CRTOS_MEMORY_TAKE:
		return crtos_memory_take(&arg.memory);
	case CRTOS_MEMORY_GIVE:
		err = crtos_memory_give(&arg.memory);
		break;
	case CRTOS_QUERY:
		err = query(&arg.query);
		break;
	case CRTOS_CELL_INFO:
		err = crtos_cell_info(&arg.info);
		break;
	default:
		return -ENOTTY;
	}
	if (!err && copy_to_user(user, &arg, _IOC_SIZE(number)))
		err = -EFAULT;
	return err;
}

static long crtos_ioctl(struct file *file, unsigned int number, unsigned long arg)
{
	long result;

	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	mutex_lock(&crtos_lock);
	result = call(number, (void __user *)arg);
	mutex_unlock(&crtos_lock);
	return result;
}

static int crtos_open(struct inode *inode, struct file *file)
{
	file->private_data = NULL;	/* console position: all that is in the ring */
	return 0;
}

static ssize_t crtos_read(struct file *file, char __user *user, size_t size, loff_t *unused)
{
	u32 *position = (u32 *)&file->private_data;	/* the ring's tail as last seen */
	char text[256];
	ssize_t got;

	if (!size)
		return 0;
	for (;;) {
		mutex_lock(&crtos_lock);
		got = crtos_console_read(position, text, min(size, sizeof(text)));
		mutex_unlock(&crtos_lock);
		if (got)
			break;
		if (file->f_flags & O_NONBLOCK)
			return -EAGAIN;
		/* the hypervisor has no interrupt to tell of output */
		if (msleep_interruptible(20))
			return -ERESTARTSYS;
	}
	if (got > 0 && copy_to_user(user, text, got))
		return -EFAULT;
	return got;
}

static const struct file_operations crtos_fops = {
	.owner = THIS_MODULE,
	.open = crtos_open,
	.unlocked_ioctl = crtos_ioctl,
	.read = crtos_read,
	.llseek = noop_llseek,
};

static struct miscdevice crtos_misc = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "crtos",
	.fops = &crtos_fops,
	.mode = 0600,
};

static int __init crtos_init(void)
{
	int err = crtos_guard_init();

	if (err)
		return err;
	err = crtos_shadow_init();
	if (err)
		goto no_shadow;
	err = misc_register(&crtos_misc);
	if (err)
		goto no_node;
	return 0;

no_node:
	crtos_shadow_exit();
no_shadow:
	crtos_guard_exit();
	return err;
}

static void __exit crtos_exit(void)
{
	struct crtos_memory range;

	misc_deregister(&crtos_misc);
	crtos_memory_give(&range);
	crtos_shadow_exit();
	crtos_guard_exit();
}

module_init(crtos_init);
module_exit(crtos_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("cRTOS: late launch of the partitioning hypervisor, cells, shadow channel");
