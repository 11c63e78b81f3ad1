//! Which system call goes where: one table, from which the handlers and the kernel's routes both come.
//!
//! `local`: answered here. `task`: answered here, with the help of Linux. `refused`: ENOSYS, by the kernel itself. All other
//! numbers up to [`LAST_FORWARDED`] go to `vfs-proxy`, and beyond that is ENOSYS.

use crate::errno::Result;
use crate::executor::Shell;
use crate::server::{Outcome, Server};
use crate::{futex, memory::mmap, misc, process, sched, signal, sleep, thread, timers};
use alloc::boxed::Box;
use alloc::rc::Rc;
use core::future::Future;
use core::pin::Pin;
use ipc::protocol::classes::Classes;

/// Last number that is forwarded: what Linux 6.1 knows.
pub const LAST_FORWARDED: u64 = 450;

/// Route of calls that come here.
pub const ROUTE_LOCAL: u64 = 0;
/// Route of calls that go to `vfs-proxy`.
pub const ROUTE_FORWARDED: u64 = 1;
/// Route of calls that the kernel refuses.
pub const ROUTE_REFUSED: u64 = 7;

type Work = Pin<Box<dyn Future<Output = Result>>>;

/// What answers a call.
#[derive(Clone, Copy)]
pub enum Handler {
    /// At once (or by a wait that is noted in the thread).
    Local(fn(&mut Server, u32, [u64; 6]) -> Result<Outcome>),
    /// A task.
    Task(fn(Rc<Shell>, u32, [u64; 6]) -> Work),
    /// `vfs-proxy`.
    Forwarded,
    /// Nobody.
    Refused,
}

macro_rules! table {
    (local { $($local:literal $local_name:ident $handler:path,)* }
     task { $($task:literal $task_name:ident $work:path,)* }
     refused { $($refused:literal $refused_name:ident,)* }) => {
        /// What answers the call with this number.
        pub fn handler(number: u64) -> Handler {
            match number {
                $($local => Handler::Local($handler),)*
                $($task => Handler::Task(|shell, slot, arguments| Box::pin($work(shell, slot, arguments))),)*
                $($refused => Handler::Refused,)*
                0..=LAST_FORWARDED => Handler::Forwarded,
                _ => Handler::Refused,
            }
        }

        /// Numbers and names in the table, for documentation and tests.
        pub const NAMES: &[(u64, &str)] = &[
            $(($local, stringify!($local_name)),)* $(($task, stringify!($task_name)),)* $(($refused, stringify!($refused_name)),)*
        ];
    };
}

table! {
    local {
        10 mprotect mmap::mprotect,
        13 rt_sigaction signal::sigaction,
        14 rt_sigprocmask signal::sigprocmask,
        15 rt_sigreturn signal::sigreturn,
        24 sched_yield sched::sched_yield,
        27 mincore mmap::mincore,
        28 madvise mmap::madvise,
        34 pause signal::pause,
        35 nanosleep sleep::nanosleep,
        36 getitimer timers::getitimer,
        37 alarm timers::alarm,
        38 setitimer timers::setitimer,
        39 getpid process::getpid,
        60 exit thread::exit,
        62 kill signal::kill,
        96 gettimeofday sleep::gettimeofday,
        97 getrlimit misc::getrlimit,
        127 rt_sigpending signal::sigpending,
        128 rt_sigtimedwait signal::sigtimedwait,
        129 rt_sigqueueinfo signal::sigqueueinfo,
        130 rt_sigsuspend signal::sigsuspend,
        131 sigaltstack signal::sigaltstack,
        142 sched_setparam sched::setparam,
        143 sched_getparam sched::getparam,
        144 sched_setscheduler sched::setscheduler,
        145 sched_getscheduler sched::getscheduler,
        146 sched_get_priority_max sched::priority_max,
        147 sched_get_priority_min sched::priority_min,
        148 sched_rr_get_interval sched::rr_interval,
        149 mlock mmap::mlock,
        150 munlock mmap::mlock,
        151 mlockall mmap::mlockall,
        152 munlockall mmap::mlockall,
        157 prctl misc::prctl,
        158 arch_prctl misc::arch_prctl,
        160 setrlimit misc::setrlimit,
        186 gettid thread::gettid,
        200 tkill signal::tkill,
        201 time sleep::time,
        202 futex futex::futex,
        203 sched_setaffinity sched::setaffinity,
        204 sched_getaffinity sched::getaffinity,
        218 set_tid_address thread::set_tid_address,
        219 restart_syscall misc::restart,
        222 timer_create timers::timer_create,
        223 timer_settime timers::timer_settime,
        224 timer_gettime timers::timer_gettime,
        225 timer_getoverrun timers::timer_getoverrun,
        226 timer_delete timers::timer_delete,
        228 clock_gettime sleep::clock_gettime,
        229 clock_getres sleep::clock_getres,
        230 clock_nanosleep sleep::clock_nanosleep,
        231 exit_group thread::exit_group,
        234 tgkill signal::tgkill,
        237 mbind misc::mbind,
        273 set_robust_list thread::set_robust_list,
        274 get_robust_list thread::get_robust_list,
        297 rt_tgsigqueueinfo signal::tgsigqueueinfo,
        302 prlimit64 misc::prlimit,
        309 getcpu sched::getcpu,
        314 sched_setattr sched::setattr,
        315 sched_getattr sched::getattr,
        324 membarrier misc::membarrier,
        325 mlock2 mmap::mlock,
    }
    task {
        9 mmap mmap::mmap,
        11 munmap mmap::munmap,
        12 brk mmap::brk,
        25 mremap mmap::mremap,
        26 msync mmap::msync,
        56 clone thread::clone,
    }
    // Other processes: not yet. Memory that Linux would map into the proxy behind the program's back, instruments that
    // would hit the proxy instead of the program, and what the C library knows how to do without.
    refused {
        29 shmget,
        30 shmat,
        31 shmctl,
        57 fork,
        58 vfork,
        59 execve,
        67 shmdt,
        101 ptrace,
        134 uselib,
        154 modify_ldt,
        156 _sysctl,
        172 iopl,
        173 ioperm,
        174 create_module,
        177 get_kernel_syms,
        178 query_module,
        180 nfsservctl,
        181 getpmsg,
        182 putpmsg,
        183 afs_syscall,
        184 tuxcall,
        185 security,
        205 set_thread_area,
        206 io_setup,
        207 io_destroy,
        208 io_getevents,
        209 io_submit,
        210 io_cancel,
        211 get_thread_area,
        214 epoll_ctl_old,
        215 epoll_wait_old,
        216 remap_file_pages,
        236 vserver,
        256 migrate_pages,
        272 unshare,
        279 move_pages,
        282 signalfd,
        289 signalfd4,
        298 perf_event_open,
        308 setns,
        317 seccomp,
        321 bpf,
        322 execveat,
        323 userfaultfd,
        329 pkey_mprotect,
        330 pkey_alloc,
        331 pkey_free,
        333 io_pgetevents,
        334 rseq,
        425 io_uring_setup,
        426 io_uring_enter,
        427 io_uring_register,
        435 clone3,
        440 process_madvise,
        446 landlock_restrict_self,
        447 memfd_secret,
        448 process_mrelease,
        449 futex_waitv,
        450 set_mempolicy_home_node,
    }
}

/// The routes of an address space: first number, last number, route. Numbers not named are refused, those that Linux would
/// answer but for the manifest among them.
pub fn routes(forwarded: Classes) -> impl Iterator<Item = (u64, u64, u64)> {
    let route = move |number| match handler(number) {
        Handler::Local(_) | Handler::Task(_) => ROUTE_LOCAL,
        Handler::Forwarded if forwarded.contain(number) => ROUTE_FORWARDED,
        Handler::Forwarded | Handler::Refused => ROUTE_REFUSED,
    };
    let mut next = 0;
    core::iter::from_fn(move || {
        let first = next;
        if first > LAST_FORWARDED {
            return None;
        }
        let kind = route(first);
        while next <= LAST_FORWARDED && route(next) == kind {
            next += 1;
        }
        Some((first, next - 1, kind))
    })
    .filter(|(_, _, route)| *route != ROUTE_REFUSED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_those_of_linux() {
        use linux_raw_sys::general as linux;
        let check = |name: &str| NAMES.iter().find(|(_, other)| *other == name).map(|(number, _)| *number as u32);
        for (name, number) in [
            ("mmap", linux::__NR_mmap),
            ("futex", linux::__NR_futex),
            ("clone", linux::__NR_clone),
            ("clone3", linux::__NR_clone3),
            ("rseq", linux::__NR_rseq),
            ("exit_group", linux::__NR_exit_group),
            ("rt_tgsigqueueinfo", linux::__NR_rt_tgsigqueueinfo),
            ("sched_getattr", linux::__NR_sched_getattr),
            ("mlock2", linux::__NR_mlock2),
            ("timer_delete", linux::__NR_timer_delete),
            ("prlimit64", linux::__NR_prlimit64),
        ] {
            assert_eq!(check(name), Some(number), "{name}");
        }
    }

    #[test]
    fn routes_cover_the_table_and_nothing_else() {
        let mut routed = vec![ROUTE_REFUSED; 512];
        for (first, last, route) in routes(Classes::ALL) {
            assert!(first <= last && last <= 511);
            routed[first as usize..=last as usize].fill(route);
        }
        assert_eq!((routed[0], routed[9], routed[57], routed[202], routed[110]), (1, 0, 7, 0, 1));
        assert_eq!((routed[LAST_FORWARDED as usize + 1], routed[511]), (7, 7));
        for number in 0..512 {
            let expected = match handler(number) {
                Handler::Local(_) | Handler::Task(_) => ROUTE_LOCAL,
                Handler::Forwarded => ROUTE_FORWARDED,
                Handler::Refused => ROUTE_REFUSED,
            };
            assert_eq!(routed[number as usize], expected);
        }
        assert!(routes(Classes::ALL).count() < 128);
    }

    #[test]
    fn what_the_manifest_does_not_forward_is_refused() {
        let files = Classes::NONE.with("files").unwrap();
        let route =
            |number| routes(files).find(|(first, last, _)| (*first..=*last).contains(&number)).map(|route| route.2);
        assert_eq!([0, 9, 41, 165].map(route), [Some(ROUTE_FORWARDED), Some(ROUTE_LOCAL), None, None]);
    }
}
