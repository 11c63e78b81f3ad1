// SPDX-License-Identifier: GPL-2.0-only
/* /dev/crtos-shadow: from file operations to shadow_slots.c and shadow_pool.c. */
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/poll.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "shadow.h"

static int shadow_open(struct inode *inode, struct file *file)
{
	struct shadow_process *process = shadow_process_new();

	if (IS_ERR(process))
		return PTR_ERR(process);
	file->private_data = process;
	file->f_mapping = process->inode->i_mapping;	/* so that pages are taken away from this process alone */
	return 0;
}

static int shadow_release(struct inode *inode, struct file *file)
{
	shadow_process_release(file->private_data);
	return 0;
}

static int shadow_mmap(struct file *file, struct vm_area_struct *vma)
{
	u64 start = (u64)vma->vm_pgoff << PAGE_SHIFT;

	if (!(vma->vm_flags & VM_SHARED) || start != vma->vm_start || start < WINDOW_START || vma->vm_end > WINDOW_END)
		return -EINVAL;
	/* A child of the proxy is no proxy; and code is the real-time side's to run. */
	if (vma->vm_flags & VM_EXEC)
		return -EPERM;
	vma->vm_flags |= VM_DONTCOPY | VM_DONTDUMP;
	vma->vm_flags &= ~VM_MAYEXEC;
	vma->vm_private_data = file->private_data;
	vma->vm_ops = &shadow_vm_ops;
	return 0;
}

static ssize_t shadow_read(struct file *file, char __user *to, size_t size, loff_t *position)
{
	void *buffer;
	ssize_t result;

	if (*position < 0)
		return -EINVAL;
	size = min_t(size_t, size, SZ_64K);
	buffer = kvmalloc(size, GFP_KERNEL);
	if (!buffer)
		return -ENOMEM;
	down_read(&shadow.device);
	if (!shadow.pdev) {
		result = -ENODEV;
	} else if (*position >= shadow.section_size) {
		result = 0;
	} else {
		result = min_t(u64, size, shadow.section_size - *position);
		memcpy(buffer, (void *)shadow.rt + *position, result);
	}
	up_read(&shadow.device);
	if (result > 0) {
		if (copy_to_user(to, buffer, result))
			result = -EFAULT;
		else
			*position += result;
	}
	kvfree(buffer);
	return result;
}

static long shadow_ioctl(struct file *file, unsigned int number, unsigned long argument)
{
	struct shadow_process *process = file->private_data;
	void __user *user = (void __user *)argument;
	union {
		struct crtos_shadow_attach attach;
		struct crtos_shadow_thread thread;
		struct crtos_shadow_call call;
		struct crtos_shadow_signal signal;
		struct crtos_shadow_status status;
		struct crtos_shadow_order order;
		s32 exit;
	} arg;
	long err;

	memset(&arg, 0, sizeof(arg));
	if (_IOC_TYPE(number) != 0xc7 || _IOC_SIZE(number) > sizeof(arg))
		return -ENOTTY;
	if (_IOC_DIR(number) & _IOC_WRITE && copy_from_user(&arg, user, _IOC_SIZE(number)))
		return -EFAULT;
	switch (number) {
	case CRTOS_SHADOW_ATTACH:
		err = shadow_attach(process, &arg.attach);
		break;
	case CRTOS_SHADOW_THREAD:
		err = shadow_attach_thread(process, &arg.thread);
		break;
	case CRTOS_SHADOW_CALL:
		err = shadow_call(process, &arg.call);
		break;
	case CRTOS_SHADOW_CONTROL:
		err = shadow_control(process, &arg.exit);
		break;
	case CRTOS_SHADOW_SIGNAL:
		err = shadow_signal(process, &arg.signal);
		break;
	case CRTOS_SHADOW_GET_STATUS:
		shadow_status(&arg.status);
		err = 0;
		break;
	case CRTOS_SHADOW_ORDER:
		err = shadow_order(&arg.order);
		break;
	default:
		return -ENOTTY;
	}
	if (!err && _IOC_DIR(number) & _IOC_READ && copy_to_user(user, &arg, _IOC_SIZE(number)))
		return -EFAULT;
	return err;
}

/* Readable: the real-time side is there. */
static __poll_t shadow_poll(struct file *file, poll_table *wait)
{
	poll_wait(file, &shadow.room, wait);
	return READ_ONCE(shadow.state) == CRTOS_SHADOW_UP ? EPOLLIN | EPOLLRDNORM : 0;
}

static const struct file_operations shadow_operations = {
	.owner = THIS_MODULE,
	.open = shadow_open,
	.release = shadow_release,
	.mmap = shadow_mmap,
	.read = shadow_read,
	.poll = shadow_poll,
	.unlocked_ioctl = shadow_ioctl,
	.llseek = default_llseek,
};

static struct miscdevice shadow_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "crtos-shadow",
	.fops = &shadow_operations,
	.mode = 0600,
};

int shadow_file_init(void)
{
	return misc_register(&shadow_device);
}

void shadow_file_exit(void)
{
	misc_deregister(&shadow_device);
}
