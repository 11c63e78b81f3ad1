// What a Linux program may rely on, each point a line "ok NAME" or "FAILED NAME": the same natively and in the real-time realm.
// cc -O1 -pthread -o abi abi.c -lrt -lm; exit status 0 if all is well.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

static int failures;

static void check(const char *name, int holds)
{
	printf("%s %s\n", holds ? "ok" : "FAILED", name);
	fflush(stdout);
	failures += !holds;
}

static int64_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void sleep_ms(int ms)
{
	struct timespec t = { ms / 1000, ms % 1000 * 1000000L };
	while (nanosleep(&t, &t) && errno == EINTR)
		;
}

// ---- memory

static sigjmp_buf escape;
static volatile uintptr_t fault_address;
static volatile int fault_code;

static void on_fault(int signal, siginfo_t *info, void *context)
{
	fault_address = (uintptr_t)info->si_addr;
	fault_code = info->si_code;
	siglongjmp(escape, signal);
}

static int faults(volatile char *address, int write)
{
	int signal = sigsetjmp(escape, 1);
	if (signal)
		return signal;
	if (write)
		*address = 1;
	else
		(void)*address;
	return 0;
}

static void memory(void)
{
	struct sigaction action = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK };
	sigaction(SIGSEGV, &action, NULL);
	sigaction(SIGBUS, &action, NULL);

	char *p = mmap(NULL, 8 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int zero = 1;
	for (int i = 0; i < 8 * 4096; i++)
		zero &= p[i] == 0;
	check("mmap anonymous is zero", p != MAP_FAILED && zero);
	memset(p, 7, 8 * 4096);
	check("munmap in the middle", munmap(p + 4096, 4096) == 0);
	check("hole faults with SEGV_MAPERR", faults(p + 4096, 0) == SIGSEGV && fault_code == SEGV_MAPERR && fault_address == (uintptr_t)p + 4096);
	check("neighbours stay", p[0] == 7 && p[8192] == 7);
	check("mmap fixed into the hole", mmap(p + 4096, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == p + 4096 && p[4096] == 0);
	check("MAP_FIXED_NOREPLACE refuses", mmap(p, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == MAP_FAILED && errno == EEXIST);
	check("mprotect read only", mprotect(p, 4096, PROT_READ) == 0 && p[0] == 7 && faults(p, 1) == SIGSEGV && fault_code == SEGV_ACCERR);
	check("mprotect none and back", mprotect(p, 4096, PROT_NONE) == 0 && faults(p, 0) == SIGSEGV && mprotect(p, 4096, PROT_READ | PROT_WRITE) == 0 && p[0] == 7);
	check("EFAULT for bad pointers", write(1, (void *)0x123, 1) == -1 && errno == EFAULT && nanosleep((void *)0x123, NULL) == -1 && errno == EFAULT);
	check("madvise DONTNEED zeroes", madvise(p + 8192, 4096, MADV_DONTNEED) == 0 && p[8192] == 0 && p[12288] == 7);
	char *q = mremap(p, 8 * 4096, 32 * 4096, MREMAP_MAYMOVE);
	if (q == MAP_FAILED) // several areas
		q = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	q = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	q[5000] = 42;
	char *r = mremap(q, 8192, 1 << 20, MREMAP_MAYMOVE);
	check("mremap grows and keeps", r != MAP_FAILED && r[5000] == 42 && r[600000] == 0);
	check("mremap shrinks", mremap(r, 1 << 20, 8192, 0) == r && r[5000] == 42);
	char *big = mmap(NULL, 1UL << 36, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	check("a reservation of 64 GiB", big != MAP_FAILED && mprotect(big + (1UL << 35), 8192, PROT_READ | PROT_WRITE) == 0);
	big[1UL << 35] = 1;
	check("and away again", munmap(big, 1UL << 36) == 0);
	void *here = sbrk(0);
	check("brk", sbrk(100000) == here && (memset(here, 1, 100000), 1) && sbrk(-100000) == (char *)here + 100000 && sbrk(0) == here);

	char name[] = "/tmp/abi-XXXXXX";
	int fd = mkstemp(name);
	unlink(name);
	char page[4096];
	memset(page, 'x', sizeof page);
	write(fd, page, sizeof page);
	write(fd, "tail", 4);
	char *file = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	check("file private", file != MAP_FAILED && file[0] == 'x' && !memcmp(file + 4096, "tail\0", 5));
	file[0] = 'y';
	pread(fd, page, 1, 0);
	check("private changes stay private", page[0] == 'x');
	char *shared = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	shared[1] = 'z';
	check("shared changes reach the file", msync(shared, 8192, MS_SYNC) == 0 && pread(fd, page, 2, 0) == 2 && page[1] == 'z');
	shared[2] = 'w';
	munmap(shared, 8192);
	struct stat st;
	check("also at munmap, and the size stays", pread(fd, page, 3, 0) == 3 && page[2] == 'w' && !fstat(fd, &st) && st.st_size == 4100);
	check("mmap of a directory", mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, open("/", O_RDONLY), 0) == MAP_FAILED && errno == ENODEV);
	check("mmap of nothing", mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, 999, 0) == MAP_FAILED && errno == EBADF);
	close(fd);
	// The same pages for Linux and for the program, also after they were replaced.
	int ends[2];
	pipe(ends);
	char *a = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int same = 1;
	for (int i = 0; i < 20; i++) {
		a[0] = 'a' + i;
		write(ends[1], a, 1);
		munmap(a, 4096);
		char *b = mmap(a, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
		read(ends[0], b + 1, 1);
		same &= b == a && b[0] == 0 && b[1] == 'a' + i;
	}
	check("replaced pages are not mixed up", same);
}

// ---- threads and futexes

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
static int counter, turn;
static __thread int local = 5;

static void *count(void *argument)
{
	for (int i = 0; i < 1000; i++) {
		pthread_mutex_lock(&mutex);
		counter++;
		if (i % 100 == 0)
			sched_yield();
		pthread_mutex_unlock(&mutex);
	}
	local += (intptr_t)argument;
	return (void *)(intptr_t)local;
}

static void *ping(void *argument)
{
	intptr_t me = (intptr_t)argument;
	for (int i = 0; i < 200; i++) {
		pthread_mutex_lock(&mutex);
		while (turn != me)
			pthread_cond_wait(&condition, &mutex);
		turn = !me;
		pthread_cond_broadcast(&condition);
		pthread_mutex_unlock(&mutex);
	}
	return NULL;
}

static pthread_mutex_t robust, inheriting;

static void *die_with_lock(void *argument)
{
	pthread_mutex_lock(&robust);
	return NULL;
}

static void *lock_inheriting(void *argument)
{
	for (int i = 0; i < 300; i++) {
		pthread_mutex_lock(&inheriting);
		counter++;
		if (i % 10 == 0)
			sched_yield();
		pthread_mutex_unlock(&inheriting);
	}
	return NULL;
}

static void *sleeper(void *argument)
{
	sleep_ms(50);
	return (void *)7;
}

static void threads(void)
{
	pthread_t thread[8];
	void *result;
	int good = 1;
	for (intptr_t i = 0; i < 8; i++)
		good &= !pthread_create(&thread[i], NULL, count, (void *)i);
	for (intptr_t i = 0; i < 8; i++)
		good &= !pthread_join(thread[i], &result) && (intptr_t)result == 5 + i;
	check("threads, mutexes, thread-local storage", good && counter == 8000 && local == 5);
	for (intptr_t i = 0; i < 2; i++)
		pthread_create(&thread[i], NULL, ping, (void *)i);
	for (int i = 0; i < 2; i++)
		pthread_join(thread[i], NULL);
	check("condition variables", turn == 0);

	sem_t semaphore;
	sem_init(&semaphore, 0, 0);
	struct timespec until;
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_nsec += 30000000;
	if (until.tv_nsec >= 1000000000)
		until.tv_sec++, until.tv_nsec -= 1000000000;
	int64_t before = now();
	check("timed wait times out", sem_timedwait(&semaphore, &until) == -1 && errno == ETIMEDOUT);
	check("not early", now() - before >= 29000000 && now() - before < 2000000000);
	sem_post(&semaphore);
	check("and takes what is there", sem_wait(&semaphore) == 0);

	pthread_mutexattr_t attributes;
	pthread_mutexattr_init(&attributes);
	pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
	pthread_mutex_init(&robust, &attributes);
	pthread_create(&thread[0], NULL, die_with_lock, NULL);
	pthread_join(thread[0], NULL);
	check("a robust mutex tells of its owner's death", pthread_mutex_lock(&robust) == EOWNERDEAD && pthread_mutex_consistent(&robust) == 0 && pthread_mutex_unlock(&robust) == 0);
	pthread_mutexattr_init(&attributes);
	check("priority inheritance is there", pthread_mutexattr_setprotocol(&attributes, PTHREAD_PRIO_INHERIT) == 0 && pthread_mutex_init(&inheriting, &attributes) == 0);
	counter = 0;
	for (int i = 0; i < 4; i++)
		pthread_create(&thread[i], NULL, lock_inheriting, NULL);
	for (int i = 0; i < 4; i++)
		pthread_join(thread[i], NULL);
	check("priority-inheriting mutexes", counter == 1200);
	good = 1;
	for (int i = 0; i < 40; i++)
		good &= !pthread_create(&thread[0], NULL, sleeper, NULL) && !pthread_detach(thread[0]) ? 1 : 0, sleep_ms(1);
	sleep_ms(200);
	check("detached threads come and go", good);
	check("gettid of the leader is getpid", syscall(SYS_gettid) == getpid());
	char name[16] = "";
	prctl(PR_SET_NAME, "abi-test");
	prctl(PR_GET_NAME, name);
	check("names", !strcmp(name, "abi-test"));
}

// ---- signals

static volatile sig_atomic_t caught, depth, deepest;
static volatile int caught_value;
static volatile pthread_t caught_by;

static void on_signal(int signal, siginfo_t *info, void *context)
{
	caught = signal;
	caught_value = info->si_value.sival_int;
	caught_by = pthread_self();
}

static void on_nested(int signal)
{
	if (++depth > deepest)
		deepest = depth;
	if (depth < 5)
		raise(SIGUSR2);
	depth--;
}

static volatile char *handler_stack;

static void on_alternate(int signal)
{
	volatile char here;
	handler_stack = &here;
}

static int pipe_ends[2];

static void *kill_later(void *argument)
{
	sleep_ms(50);
	pthread_kill(*(pthread_t *)argument, SIGUSR1);
	sleep_ms(50);
	write(pipe_ends[1], "x", 1);
	return NULL;
}

static void *wait_for_signal(void *argument)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	int signal = 0;
	sigwait(&set, &signal);
	return (void *)(intptr_t)signal;
}

static void notified(union sigval value)
{
	caught_value = value.sival_int;
	caught = 1;
}

static void signals(void)
{
	struct sigaction action = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO };
	sigaction(SIGUSR1, &action, NULL);
	sigaction(SIGALRM, &action, NULL);
	sigaction(SIGRTMIN, &action, NULL);
	caught = 0;
	raise(SIGUSR1);
	check("raise", caught == SIGUSR1);
	caught = 0;
	kill(getpid(), SIGUSR1);
	check("kill of oneself", caught == SIGUSR1);
	struct sigaction nested = { .sa_handler = on_nested, .sa_flags = SA_NODEFER };
	sigaction(SIGUSR2, &nested, NULL);
	double x = 1.5;
	raise(SIGUSR2);
	check("nested handlers, registers kept", deepest == 5 && depth == 0 && sqrt(x * x) == 1.5);

	stack_t stack = { .ss_sp = malloc(65536), .ss_size = 65536 };
	struct sigaction alternate = { .sa_handler = on_alternate, .sa_flags = SA_ONSTACK };
	check("sigaltstack", sigaltstack(&stack, NULL) == 0);
	sigaction(SIGUSR2, &alternate, NULL);
	raise(SIGUSR2);
	check("handler on the alternate stack", handler_stack > (char *)stack.ss_sp && handler_stack < (char *)stack.ss_sp + 65536);

	sigset_t set, old, pending;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigprocmask(SIG_BLOCK, &set, &old);
	caught = 0;
	raise(SIGUSR1);
	sigpending(&pending);
	check("blocked signals wait", caught == 0 && sigismember(&pending, SIGUSR1));
	sigprocmask(SIG_SETMASK, &old, NULL);
	check("until unblocked", caught == SIGUSR1);

	pthread_t self = pthread_self(), thread;
	pipe(pipe_ends);
	char byte;
	pthread_create(&thread, NULL, kill_later, &self);
	caught = 0;
	struct timespec long_time = { 5, 0 }, rest = { 0, 0 };
	check("a sleep is interrupted", nanosleep(&long_time, &rest) == -1 && errno == EINTR && caught == SIGUSR1 && rest.tv_sec == 4);
	pthread_join(thread, NULL);
	read(pipe_ends[0], &byte, 1);
	pthread_create(&thread, NULL, kill_later, &self);
	caught = 0;
	check("a read is interrupted", read(pipe_ends[0], &byte, 1) == -1 && errno == EINTR && caught == SIGUSR1);
	pthread_join(thread, NULL);
	read(pipe_ends[0], &byte, 1);
	action.sa_flags |= SA_RESTART;
	sigaction(SIGUSR1, &action, NULL);
	pthread_create(&thread, NULL, kill_later, &self);
	caught = 0;
	check("and goes on with SA_RESTART", read(pipe_ends[0], &byte, 1) == 1 && caught == SIGUSR1);
	pthread_join(thread, NULL);
	pthread_create(&thread, NULL, kill_later, &self);
	caught = 0;
	check("a poll never does", poll(&(struct pollfd){ pipe_ends[0], POLLIN, 0 }, 1, 5000) == -1 && errno == EINTR && caught == SIGUSR1);
	pthread_join(thread, NULL);
	read(pipe_ends[0], &byte, 1);

	sigprocmask(SIG_BLOCK, &set, &old);
	void *result;
	pthread_create(&thread, NULL, wait_for_signal, NULL);
	sleep_ms(20);
	kill(getpid(), SIGUSR1);
	pthread_join(thread, &result);
	check("sigwait", (intptr_t)result == SIGUSR1);
	struct timespec short_time = { 0, 20000000 };
	check("sigtimedwait times out", sigtimedwait(&set, NULL, &short_time) == -1 && errno == EAGAIN);
	raise(SIGUSR1);
	sigset_t none;
	sigemptyset(&none);
	caught = 0;
	check("sigsuspend", sigsuspend(&none) == -1 && errno == EINTR && caught == SIGUSR1);
	sigprocmask(SIG_BLOCK, NULL, &pending);
	check("and the mask is back", sigismember(&pending, SIGUSR1));
	sigprocmask(SIG_SETMASK, &old, NULL);

	caught = 0;
	struct itimerval interval = { { 0, 10000 }, { 0, 10000 } };
	setitimer(ITIMER_REAL, &interval, NULL);
	pause();
	check("setitimer", caught == SIGALRM);
	memset(&interval, 0, sizeof interval);
	setitimer(ITIMER_REAL, &interval, NULL);
	timer_t timer;
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN, .sigev_value.sival_int = 77 };
	struct itimerspec soon = { { 0, 0 }, { 0, 10000000 } };
	caught = 0;
	check("timer_create", timer_create(CLOCK_MONOTONIC, &event, &timer) == 0 && timer_settime(timer, 0, &soon, NULL) == 0);
	sleep_ms(100);
	check("its signal and value", caught == SIGRTMIN && caught_value == 77 && timer_delete(timer) == 0);
	struct sigevent by_thread = { .sigev_notify = SIGEV_THREAD, .sigev_notify_function = notified, .sigev_value.sival_int = 78 };
	caught = 0;
	timer_create(CLOCK_REALTIME, &by_thread, &timer);
	timer_settime(timer, 0, &soon, NULL);
	sleep_ms(200);
	check("SIGEV_THREAD", caught == 1 && caught_value == 78 && timer_delete(timer) == 0);
	union sigval value = { .sival_int = 5 };
	check("sigqueue", sigqueue(getpid(), SIGRTMIN, value) == 0 && caught_value == 5);
	volatile int nought = 0;
	struct sigaction division = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO };
	sigaction(SIGFPE, &division, NULL);
	int signal = sigsetjmp(escape, 1);
	if (!signal)
		nought = 1000 / nought;
	check("division by zero", signal == SIGFPE && fault_code == FPE_INTDIV);
	struct sigaction ignore = { .sa_handler = SIG_IGN };
	sigaction(SIGPIPE, &ignore, NULL);
	int broken[2];
	pipe(broken);
	close(broken[0]);
	check("EPIPE", write(broken[1], "x", 1) == -1 && errno == EPIPE);
}

// ---- time and scheduling

static void timing(void)
{
	int64_t last = 0, steps = 1;
	for (int i = 0; i < 10000; i++) {
		int64_t t = now();
		steps &= t >= last;
		last = t;
	}
	check("the clock never goes back", steps);
	struct timespec vdso, call;
	clock_gettime(CLOCK_REALTIME, &vdso);
	syscall(SYS_clock_gettime, CLOCK_REALTIME, &call);
	int64_t difference = (call.tv_sec - vdso.tv_sec) * 1000000000LL + call.tv_nsec - vdso.tv_nsec;
	check("vDSO and call agree", difference >= 0 && difference < 1000000000 && getauxval(AT_SYSINFO_EHDR));
	struct stat st;
	char name[] = "/tmp/abi-XXXXXX";
	int fd = mkstemp(name);
	unlink(name);
	fstat(fd, &st);
	difference = (st.st_mtim.tv_sec - vdso.tv_sec) * 1000 + (st.st_mtim.tv_nsec - vdso.tv_nsec) / 1000000;
	check("the same time of day as Linux", difference >= -2000 && difference <= 2000);
	if (difference < -100 || difference > 100)
		printf("   (%lld ms apart)\n", (long long)difference);
	struct timespec until;
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += 20000000;
	if (until.tv_nsec >= 1000000000)
		until.tv_sec++, until.tv_nsec -= 1000000000;
	int64_t target = until.tv_sec * 1000000000LL + until.tv_nsec;
	check("clock_nanosleep", clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == 0 && now() >= target);
	struct sched_param param = { .sched_priority = 42 };
	check("sched_setscheduler", sched_setscheduler(0, SCHED_FIFO, &param) == 0 && sched_getscheduler(0) == SCHED_FIFO && sched_getparam(0, &param) == 0 && param.sched_priority == 42);
	param.sched_priority = 100;
	check("priorities are checked", sched_setscheduler(0, SCHED_FIFO, &param) == -1 && errno == EINVAL);
	param.sched_priority = 0;
	sched_setscheduler(0, SCHED_OTHER, &param);
	cpu_set_t cpus;
	check("affinity", sched_getaffinity(0, sizeof cpus, &cpus) == 0 && CPU_COUNT(&cpus) >= 1);
	struct rlimit limit;
	check("stack limit", getrlimit(RLIMIT_STACK, &limit) == 0 && limit.rlim_cur >= 65536);
	check("auxiliary vector", getauxval(AT_PAGESZ) == 4096 && getauxval(AT_RANDOM) && getauxval(AT_UID) == getuid() && getauxval(AT_ENTRY) && getauxval(AT_CLKTCK) == 100);
	errno = 0;
	check("unknown calls are ENOSYS", syscall(9999) == -1 && errno == ENOSYS && syscall(-1) == -1 && errno == ENOSYS);
}

static void *outlive(void *argument)
{
	sleep_ms(300);
	printf("outlived\n");
	exit(9);
}

int main(int argc, char **argv)
{
	if (argc > 1 && !strcmp(argv[1], "abort"))
		abort();
	if (argc > 1 && !strcmp(argv[1], "segv"))
		*(volatile int *)8 = 1;
	if (argc > 1 && !strcmp(argv[1], "leader")) {
		pthread_t thread;
		pthread_create(&thread, NULL, outlive, NULL);
		pthread_exit(NULL);
	}
	if (argc > 1 && !strcmp(argv[1], "wait")) {
		printf("ready\n");
		fflush(stdout);
		for (;;)
			pause();
	}
	memory();
	threads();
	signals();
	timing();
	printf("%d failed\n", failures);
	return failures != 0;
}
