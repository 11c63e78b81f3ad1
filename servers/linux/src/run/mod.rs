//! What runs under the kernel: start-up and the event loop.

mod afresh;
mod kernel;
mod objects;

use alloc::boxed::Box;
use alloc::rc::Rc;
use core::ptr::NonNull;
use ipc::message::{LABEL_FAULT, LABEL_FOREIGN};
use ipc::protocol::classes::Classes;
use ipc::shadow::rt_section::{COUNTERS, THREADS};
use ipc::shadow::{MAX_SLOTS, ThreadEntry};
use kernel::{Kernel, Shared};
use linux::executor::Shell;
use linux::memory::{Memory, Mirror, PAGE, Pages, Pool};
use linux::server::{self, Server, Settings};
use rt::{Answer, Caller, Message, Replies, Start, log};

/// Callers that can be kept: each thread slot one.
const CALLERS: usize = MAX_SLOTS;
/// First stack of a program, if the manifest does not say.
const DEFAULT_STACK: u64 = 2 << 20;

/// The server.
pub fn main(mut start: Start) -> ! {
    let mut replies = Replies::new(CALLERS);
    replies.fill(&mut start.slots).expect("the manifest gives memory and slots for all Replies");
    let shared = Shared::default();
    let stack = start.argument("stack").and_then(|value| value.parse().ok()).unwrap_or(DEFAULT_STACK);
    let forwarded = start.argument("forward").map_or(Classes::ALL, |names| {
        // An empty list is a list: nothing is forwarded. The composer has checked the names.
        let names = names.split(',').filter(|name| !name.is_empty());
        names.fold(Classes::NONE, |set, name| set.with(name).expect("a class of the manifest"))
    });
    let settings = Settings { stack: (stack / PAGE * PAGE).max(16 * PAGE) };
    let tsc_khz = start.info.tsc_khz;

    let memory = |name: &str| start.memory(name).unwrap_or_else(|| panic!("the manifest grants no memory {name:?}"));
    let pool = memory("pool");
    let pages = (pool.len() as u64 / PAGE) as u32;
    let base = NonNull::new(core::ptr::with_exposed_provenance_mut(pool.address())).expect("the pool is mapped");
    // SAFETY: init has mapped the grant there, writable and for good; nothing else of this server uses it.
    #[allow(unsafe_code)]
    let bytes = unsafe { Pool::new(base, pages) };
    let words = |name: &str| {
        let mapping = memory(name);
        mapping.atomics_slice(0, mapping.len() / 8).expect("a grant is aligned")
    };
    let threads = memory("threads");
    let entries = threads.atomics::<[ThreadEntry; MAX_SLOTS]>(0).expect("the entries fit");
    let counters = threads.atomics(COUNTERS - THREADS).expect("the counters fit");
    let linux_header = memory("linux-header");
    let (held, mirror) = (words("held"), words("mirror"));
    let frame = start.frame("pool").expect("the pool is a frame");
    let vfs = start.endpoint("vfs").expect("the manifest lets this server call vfs-proxy");
    let mut machine = Kernel::new(start, frame, vfs, shared.clone(), forwarded);
    let early = afresh::begin(&mut machine, entries);
    let memory_state = Memory { pool: bytes, pages: Pages::new(pages, held), mirror: Mirror::new(mirror) };
    let published = (linux_header.atomics(0).expect("the header fits"), counters, entries);
    let server = Server::new(Box::new(machine), memory_state, tsc_khz, settings, published);
    log!("{pages} pages for programs, stacks of {} KiB", settings.stack / 1024);
    let mut personality = Personality { shell: Shell::new(server), shared };
    server::happened_before(&personality.shell, &early);
    personality.shared.settle_all(&mut replies);
    rt::serve(&mut personality, Start::ENDPOINT, replies)
}

/// The event loop's handlers.
struct Personality {
    shell: Rc<Shell>,
    shared: Shared,
}

impl rt::Server for Personality {
    fn message(&mut self, message: &Message, caller: Caller, replies: &mut Replies) -> Option<(Caller, Answer)> {
        let reply = self.shared.keep(caller);
        match message.label() {
            LABEL_FOREIGN => {
                server::foreign(&self.shell, message.badge, core::array::from_fn(|index| message.word(index)), reply);
            }
            LABEL_FAULT => {
                linux::signal::fault(
                    &self.shell,
                    message.badge,
                    core::array::from_fn(|index| message.word(index)),
                    reply,
                );
            }
            label => {
                log!("message with label {label:#x} from {:#x}: refused", message.badge);
                self.shared.refuse(reply);
            }
        }
        self.shared.settle(replies)
    }

    fn signal(&mut self, _: u64, replies: &mut Replies) {
        server::news(&self.shell);
        self.shared.settle_all(replies);
    }

    fn timeout(&mut self, replies: &mut Replies) {
        server::time_passed(&self.shell);
        self.shared.settle_all(replies);
    }

    fn deadline(&self) -> Option<u64> {
        self.shell.with(|server| server.timers.next())
    }
}
