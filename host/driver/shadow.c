// SPDX-License-Identifier: GPL-2.0-only
/*
 * The ivshmem device of the shadow channel: sections, rings, interrupts, heartbeat, and whether the other side is there.
 *
 * The other side is not trusted: of what it wrote only indices are used, each read once and checked. Interrupts only wake
 * shadow_look(); a timer does so too if something waits, because a doorbell that rings while the vector is masked is lost.
 */
#include <linux/hrtimer.h>
#include <linux/interrupt.h>
#include <linux/io.h>
#include <linux/ioport.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/timekeeping.h>
#include <linux/workqueue.h>
#include <asm/msr.h>

#include "crtos.h"
#include "shadow.h"

#define IVSHMEM_VENDOR		0x110a
#define IVSHMEM_DEVICE		0x4106
#define IVSHMEM_CLASS		0xff4372	/* base class, then the protocol */

#define CAP_STATE_TABLE_SIZE	0x04
#define CAP_RW_SIZE		0x08
#define CAP_OUTPUT_SIZE		0x10
#define CAP_ADDRESS		0x18
#define CAP_LENGTH		0x20

#define REG_ID			0x00
#define REG_MAX_PEERS		0x04
#define REG_INT_CONTROL		0x08
#define REG_DOORBELL		0x0c
#define REG_STATE		0x10

#define VECTOR_STATE		0
#define VECTOR_DOORBELL		1

#define TICK_NS			(20 * NSEC_PER_MSEC)
#define PULSE_MIN_US		500
#define REQUEST_BUDGET		REQUESTS

struct shadow shadow = {
	.device = __RWSEM_INITIALIZER(shadow.device),
	.drain_lock = __MUTEX_INITIALIZER(shadow.drain_lock),
	.lock = __SPIN_LOCK_UNLOCKED(shadow.lock),
	.gone = LIST_HEAD_INIT(shadow.gone),
	.processes = LIST_HEAD_INIT(shadow.processes),
	.room = __WAIT_QUEUE_HEAD_INITIALIZER(shadow.room),
};

static struct hrtimer tick;
static u64 since_tick;
static u32 seen_peer_state;
static u64 seen_heartbeat;
static ktime_t heartbeat_at;

/* ---- rings ---- */

/* Full also if the other side claims to have consumed what was never sent. */
bool shadow_ring_full(void)
{
	return shadow.response_tail - READ_ONCE(shadow.rt->response_head) >= RESPONSES;
}

u32 shadow_send(const struct response *response)
{
	u32 index = shadow.response_tail++;
	struct response *ring = (void *)shadow.own + LINUX_RESPONSES;

	ring[index % RESPONSES] = *response;
	smp_store_release(&shadow.own->response_tail, index + 1);
	shadow.responses++;
	return index;
}

void shadow_ring(u16 vector)
{
	if (shadow.pdev)
		writel(PEER_RT << 16 | vector, shadow.regs + REG_DOORBELL);
}

void shadow_doorbell(void)
{
	shadow_ring(VECTOR_DOORBELL);
}

static void copy_request(struct request *to, u32 index)
{
	const u64 *from = (void *)shadow.rt + RT_REQUESTS + (index % REQUESTS) * sizeof(*to);
	unsigned int i;

	for (i = 0; i < sizeof(*to) / 8; i++)
		((u64 *)to)[i] = READ_ONCE(from[i]);
}

/* Takes requests until none is left, the budget is spent (true: come again) or answers have no room (a later tick comes again). */
static bool drain(void)
{
	unsigned int budget = REQUEST_BUDGET;
	struct request request;

	while (budget--) {
		u32 waiting = smp_load_acquire(&shadow.rt->request_tail) - shadow.request_head;

		if (!waiting)
			return false;
		if (waiting > REQUESTS) {
			pr_err_ratelimited("crtos: shadow: the real-time side claims %u requests in a ring of %u\n", waiting, REQUESTS);
			return false;
		}
		copy_request(&request, shadow.request_head);
		if (!shadow_request(&request))
			return false;
		shadow.request_head++;
		smp_store_release(&shadow.own->request_head, shadow.request_head);
	}
	return true;
}

/* ---- the other side comes and goes ---- */

static bool peer_valid(void)
{
	return READ_ONCE(shadow.rt->magic) == RT_MAGIC && READ_ONCE(shadow.rt->version) == SHADOW_VERSION;
}

static void look_at_peer(void)
{
	u32 state = READ_ONCE(shadow.states[PEER_RT]);
	bool up;

	smp_rmb();
	up = state == STATE_RUN && peer_valid();
	if (up == (shadow.state == CRTOS_SHADOW_UP))
		return;
	if (!up) {
		shadow_realm_down();
		/* The next realm gives the same pages to others, and these processes may take a while to end. */
		shadow_pool_lose(false);
		pr_info("crtos: shadow: real-time side went away\n");
		return;
	}
	spin_lock(&shadow.lock);
	/* It has taken over our view of the rings if it knew it; if not, its view holds. Nothing is under way in either. */
	shadow.request_head = READ_ONCE(shadow.rt->request_tail);
	shadow.response_tail = READ_ONCE(shadow.rt->response_head);
	WRITE_ONCE(shadow.own->request_head, shadow.request_head);
	smp_store_release(&shadow.own->response_tail, shadow.response_tail);
	heartbeat_at = ktime_get();
	shadow.state = CRTOS_SHADOW_UP;
	spin_unlock(&shadow.lock);
	pr_info("crtos: shadow: real-time side is there\n");
}

static void shadow_look(struct work_struct *work)
{
	bool again = false;

	mutex_lock(&shadow.drain_lock);
	down_read(&shadow.device);
	if (shadow.pdev) {
		look_at_peer();
		if (shadow.state == CRTOS_SHADOW_UP) {
			if (shadow_flush())
				shadow_doorbell();
			again = drain();
			wake_up_all(&shadow.room);
		}
	}
	up_read(&shadow.device);
	mutex_unlock(&shadow.drain_lock);
	if (again)
		shadow_kick();
}

static DECLARE_WORK(look_work, shadow_look);

void shadow_kick(void)
{
	queue_work(system_highpri_wq, &look_work);
}

static irqreturn_t shadow_interrupt(int irq, void *unused)
{
	return IRQ_WAKE_THREAD;
}

static irqreturn_t shadow_interrupt_thread(int irq, void *unused)
{
	shadow_look(NULL);
	return IRQ_HANDLED;
}

/* ---- heartbeat and clocks ---- */

static void publish_clocks(struct linux_header *own)
{
	u64 best = U64_MAX, tsc = 0, sequence = own->clock_sequence | 1;
	ktime_t now = 0;
	int i;

	for (i = 0; i < 3; i++) {
		u64 before = rdtsc_ordered();
		ktime_t clock = ktime_get();
		u64 width = rdtsc_ordered() - before;

		if (width < best) {
			best = width;
			tsc = before + width / 2;
			now = clock;
		}
	}
	WRITE_ONCE(own->clock_sequence, sequence);
	smp_wmb();
	WRITE_ONCE(own->clock_realtime, ktime_to_ns(ktime_mono_to_real(now)));
	WRITE_ONCE(own->clock_monotonic, ktime_to_ns(now));
	WRITE_ONCE(own->clock_tsc, tsc);
	smp_wmb();
	WRITE_ONCE(own->clock_sequence, sequence + 1);
}

/* In hard interrupt context also under PREEMPT_RT. Runs only while the sections are mapped. */
static enum hrtimer_restart shadow_tick(struct hrtimer *timer)
{
	u32 state = READ_ONCE(shadow.states[PEER_RT]);
	u64 heartbeat = READ_ONCE(shadow.rt->heartbeat);
	u64 pulse = READ_ONCE(shadow.rt->pulse_us);

	WRITE_ONCE(shadow.own->heartbeat, shadow.own->heartbeat + 1);
	/* The other side may want to see sooner that this one lives, but not at any price. */
	pulse = pulse ? clamp_t(u64, pulse, PULSE_MIN_US, TICK_NS / NSEC_PER_USEC) * NSEC_PER_USEC : TICK_NS;
	since_tick += pulse;
	if (since_tick < TICK_NS) {
		hrtimer_forward_now(timer, ns_to_ktime(pulse));
		return HRTIMER_RESTART;
	}
	since_tick = 0;
	publish_clocks(shadow.own);
	if (heartbeat != seen_heartbeat) {
		seen_heartbeat = heartbeat;
		WRITE_ONCE(heartbeat_at, ktime_get());
	}
	if (state != seen_peer_state || READ_ONCE(shadow.rt->request_tail) != READ_ONCE(shadow.request_head) ||
	    (state == STATE_RUN) != (READ_ONCE(shadow.state) == CRTOS_SHADOW_UP) ||
	    waitqueue_active(&shadow.room) ||
	    !list_empty(&shadow.gone) || READ_ONCE(shadow.owed.id)) {
		seen_peer_state = state;
		shadow_kick();
	}
	hrtimer_forward_now(timer, ns_to_ktime(pulse));
	return HRTIMER_RESTART;
}

u64 shadow_silent_ms(void)
{
	return ktime_to_ms(ktime_sub(ktime_get(), READ_ONCE(heartbeat_at)));
}

/* ---- the device ---- */

static int read_capability(struct pci_dev *pdev, u64 *address, u64 *table, u64 *rw, u64 *output)
{
	int cap = pci_find_capability(pdev, PCI_CAP_ID_VNDR);
	u32 low, high;
	u8 length;

	if (!cap)
		return -ENODEV;
	pci_read_config_byte(pdev, cap + 2, &length);
	if (length != CAP_LENGTH)
		return -ENODEV;
	pci_read_config_dword(pdev, cap + CAP_STATE_TABLE_SIZE, &low);
	*table = low;
	pci_read_config_dword(pdev, cap + CAP_RW_SIZE, &low);
	pci_read_config_dword(pdev, cap + CAP_RW_SIZE + 4, &high);
	*rw = (u64)high << 32 | low;
	pci_read_config_dword(pdev, cap + CAP_OUTPUT_SIZE, &low);
	pci_read_config_dword(pdev, cap + CAP_OUTPUT_SIZE + 4, &high);
	*output = (u64)high << 32 | low;
	pci_read_config_dword(pdev, cap + CAP_ADDRESS, &low);
	pci_read_config_dword(pdev, cap + CAP_ADDRESS + 4, &high);
	*address = (u64)high << 32 | low;
	return 0;
}

static void start_own_section(void)
{
	struct linux_header *own = shadow.own;
	u32 epoch = READ_ONCE(own->epoch) + 1 ?: 1;	/* of whatever was there: it only must be another one */

	WRITE_ONCE(own->magic, 0);
	smp_wmb();
	WRITE_ONCE(own->version, SHADOW_VERSION);
	WRITE_ONCE(own->epoch, epoch);
	shadow.request_head = shadow.response_tail = 0;
	if (peer_valid()) {
		shadow.request_head = READ_ONCE(shadow.rt->request_tail);
		shadow.response_tail = READ_ONCE(shadow.rt->response_head);
	}
	WRITE_ONCE(own->request_head, shadow.request_head);
	WRITE_ONCE(own->response_tail, shadow.response_tail);
	publish_clocks(own);
	smp_wmb();
	WRITE_ONCE(own->magic, LINUX_MAGIC);
	shadow_slots_init(epoch);
}

static void unmap_sections(void)
{
	if (shadow.own)
		memunmap(shadow.own);
	if (shadow.rt)
		memunmap(shadow.rt);
	if (shadow.states)
		memunmap((void *)shadow.states);
	shadow.own = NULL;
	shadow.rt = NULL;
	shadow.states = NULL;
}

static int map_sections(struct pci_dev *pdev)
{
	u64 address, table, rw, output, total;
	int err = read_capability(pdev, &address, &table, &rw, &output);

	if (err)
		return err;
	total = table + rw + 2 * output;
	if (table < PAGE_SIZE || rw < PMD_SIZE || output < RT_MIRROR + PAGE_SIZE || output < LINUX_HELD + rw / PAGE_SIZE / 8 ||
	    rw > 1ULL << 40 || output > 1ULL << 32 || !IS_ALIGNED(address | table | rw | output, PAGE_SIZE) ||
	    address + total < address) {
		dev_err(&pdev->dev, "shared memory has an unusable shape: %#llx: %#llx, %#llx, %#llx\n", address, table, rw, output);
		return -EINVAL;
	}
	if (region_intersects(address, total, IORESOURCE_SYSTEM_RAM, IORES_DESC_NONE) != REGION_DISJOINT) {
		dev_err(&pdev->dev, "shared memory at %#llx is not reserved: it is System RAM\n", address);
		return -EBUSY;
	}
	shadow.states = memremap(address, table, MEMREMAP_WB);
	shadow.own = memremap(address + table + rw + PEER_LINUX * output, output, MEMREMAP_WB);
	shadow.rt = memremap(address + table + rw + PEER_RT * output, output, MEMREMAP_WB);
	shadow.section_size = output;
	if (!shadow.states || !shadow.own || !shadow.rt)
		err = -ENOMEM;
	if (!err) {
		bitmap_zero((void *)shadow.own + LINUX_HELD, rw / PAGE_SIZE);
		err = shadow_pool_attach(address + table, rw, (void *)shadow.own + LINUX_HELD);
	}
	if (err) {
		unmap_sections();
		return err;
	}
	start_own_section();
	return 0;
}

static int request_vectors(struct pci_dev *pdev)
{
	static const char * const names[] = { "crtos-shadow-state", "crtos-shadow" };
	int vector, err = pci_alloc_irq_vectors(pdev, 2, 2, PCI_IRQ_MSIX);

	if (err < 0)
		return err;
	for (vector = VECTOR_STATE; vector <= VECTOR_DOORBELL; vector++) {
		err = request_threaded_irq(pci_irq_vector(pdev, vector), shadow_interrupt, shadow_interrupt_thread, 0,
					   names[vector], pdev);
		if (err)
			break;
	}
	if (!err)
		return 0;
	while (--vector >= 0)
		free_irq(pci_irq_vector(pdev, vector), pdev);
	pci_free_irq_vectors(pdev);
	return err;
}

static int shadow_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	int err;

	if (shadow.pdev)
		return -EBUSY;
	err = pci_enable_device_mem(pdev);
	if (err)
		return err;
	err = pci_request_region(pdev, 0, "crtos-shadow");
	if (err)
		goto disable;
	shadow.regs = pci_iomap(pdev, 0, PAGE_SIZE);
	err = -ENOMEM;
	if (!shadow.regs)
		goto release;
	err = -ENODEV;
	if (readl(shadow.regs + REG_ID) != PEER_LINUX || readl(shadow.regs + REG_MAX_PEERS) != 2) {
		dev_err(&pdev->dev, "not peer %u of 2\n", PEER_LINUX);
		goto unmap;
	}
	err = map_sections(pdev);
	if (err)
		goto unmap;

	down_write(&shadow.device);
	shadow.pdev = pdev;
	shadow.state = CRTOS_SHADOW_DOWN;
	seen_peer_state = STATE_RESET;
	up_write(&shadow.device);
	pci_set_master(pdev);
	err = request_vectors(pdev);
	if (err)
		goto forget;
	hrtimer_start(&tick, 0, HRTIMER_MODE_REL_HARD);
	writel(1, shadow.regs + REG_INT_CONTROL);
	writel(STATE_RUN, shadow.regs + REG_STATE);
	shadow_kick();
	dev_info(&pdev->dev, "shadow channel, epoch %u\n", shadow.own->epoch);
	return 0;

forget:
	down_write(&shadow.device);
	shadow.pdev = NULL;
	shadow.state = CRTOS_SHADOW_ABSENT;
	shadow_pool_detach();
	unmap_sections();
	up_write(&shadow.device);
	pci_clear_master(pdev);
unmap:
	pci_iounmap(pdev, shadow.regs);
release:
	pci_release_region(pdev, 0);
disable:
	pci_disable_device(pdev);
	return err;
}

static void shadow_remove(struct pci_dev *pdev)
{
	int vector;

	writel(STATE_RESET, shadow.regs + REG_STATE);
	writel(0, shadow.regs + REG_INT_CONTROL);
	for (vector = VECTOR_STATE; vector <= VECTOR_DOORBELL; vector++)
		free_irq(pci_irq_vector(pdev, vector), pdev);
	pci_free_irq_vectors(pdev);
	hrtimer_cancel(&tick);

	down_write(&shadow.device);
	shadow_realm_down();
	shadow.pdev = NULL;
	shadow.state = CRTOS_SHADOW_ABSENT;
	shadow_pool_detach();
	WRITE_ONCE(shadow.own->magic, 0);
	unmap_sections();
	up_write(&shadow.device);
	cancel_work_sync(&look_work);

	pci_iounmap(pdev, shadow.regs);
	pci_clear_master(pdev);
	pci_release_region(pdev, 0);
	pci_disable_device(pdev);
}

static const struct pci_device_id shadow_ids[] = {
	{ PCI_DEVICE(IVSHMEM_VENDOR, IVSHMEM_DEVICE), .class = IVSHMEM_CLASS, .class_mask = 0xffffff },
	{ }
};

static struct pci_driver shadow_driver = {
	.name = "crtos-shadow",
	.id_table = shadow_ids,
	.probe = shadow_probe,
	.remove = shadow_remove,
};

int crtos_shadow_init(void)
{
	int err;

	hrtimer_init(&tick, CLOCK_MONOTONIC, HRTIMER_MODE_REL_HARD);
	tick.function = shadow_tick;
	shadow_slots_init(0);
	err = shadow_pool_init();
	if (err)
		return err;
	err = shadow_file_init();
	if (err)
		goto pool;
	err = pci_register_driver(&shadow_driver);
	if (!err)
		return 0;
	shadow_file_exit();
pool:
	shadow_pool_exit();
	return err;
}

void crtos_shadow_exit(void)
{
	pci_unregister_driver(&shadow_driver);
	shadow_file_exit();
	cancel_work_sync(&look_work);
	shadow_pool_exit();
}
