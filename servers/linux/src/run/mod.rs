//! What runs under the kernel: start-up and the event loop.
//!
//! The whole state hangs on one root. With a vault it lies there, a turn of the event loop is done or not done, and a new instance goes on where the
//! dead one's last turn ended. Without, or if that fails, a new instance begins afresh.

mod afresh;
mod kernel;
mod objects;
mod outbox;

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::ptr::NonNull;
use ipc::message::{LABEL_FAULT, LABEL_FOREIGN, reply_label};
use ipc::protocol::classes::Classes;
use ipc::shadow::rt_section::{COUNTERS, THREADS};
use ipc::shadow::{MAX_SLOTS, ThreadEntry, identity_parts};
use kernel::Kernel;
use linux::executor::Shell;
use linux::memory::{Memory, Mirror, PAGE, Pages, Pool};
use linux::recovery;
use linux::server::{self, Server, Settings};
use outbox::{EIO, Outbox};
use rt::checkpoint::{Found, KeptHeap, Taken};
use rt::{Answer, Caller, Cap, Endpoint, Message, Replies, Rights, Start, journal, log};

/// Callers that can be kept: each thread slot one.
const CALLERS: usize = MAX_SLOTS;
/// First stack of a program, if the manifest does not say.
const DEFAULT_STACK: u64 = 2 << 20;
/// Crashes in a row without a turn that came to its end, after which the state is given up.
const MAX_ATTEMPTS: u64 = 3;

/// All that is kept.
struct Root {
    personality: Personality,
    replies: Replies,
}

/// The server.
pub fn main(mut start: Start) -> ! {
    let vault =
        start.vault().map(|vault| KeptHeap::open(vault).expect("the manifest gives a vault that is large enough"));
    // Init deletes what was copied of the endpoint if it leaves this server dead: nobody who runs can call it any more then.
    let witness = start.slots.take().expect("the manifest gives slots");
    let is_reachable = Start::CAP_TABLE.identify(witness).is_ok_and(|held| held.is_some());
    if !is_reachable {
        let copied = Start::CAP_TABLE.copy(witness, Start::ENDPOINT, Rights::WRITE, 0);
        copied.map(drop).expect("copying the endpoint");
    }
    let root = match vault {
        None => Box::leak(Box::new(begin(start, None))),
        Some((kept, Found::Nothing)) => first(start, kept),
        Some((kept, Found::Whole { torn, given, attempts, again })) => {
            if attempts >= MAX_ATTEMPTS || torn && journal::is_full() || !is_reachable {
                log!("what was kept is given up, after {attempts} crashes in a row");
                // Programs and Replies are made of it.
                Start::CAP_TABLE.revoke(Start::UNTYPED.slot()).expect("taking back what was made");
                first(start, kept)
            } else {
                // SAFETY: it was found, `first` has put it there as this type, and this is the only call.
                #[allow(unsafe_code)]
                let root = unsafe { kept.adopt::<Root>() };
                root.go_on(torn, given, again);
                root
            }
        }
    };
    rt::serve(&mut root.personality, Start::ENDPOINT, &mut root.replies)
}

/// Begins on a new heap in the vault.
fn first(start: Start, kept: KeptHeap) -> &'static mut Root {
    kept.begin();
    let root = Box::new(begin(start, Some(kept)));
    kept.begin_with(root)
}

/// A new state, when nothing of a former instance is left.
fn begin(mut start: Start, kept: Option<KeptHeap>) -> Root {
    let mut replies = Replies::new(CALLERS);
    replies.fill(&mut start.slots).expect("the manifest gives memory and slots for all Replies");
    let outbox = Outbox::default();
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
    let mut machine = Kernel::new(start, frame, vfs, outbox.clone(), forwarded);
    let early = afresh::begin(&mut machine, entries);
    let memory_state = Memory { pool: bytes, pages: Pages::new(pages, held), mirror: Mirror::new(mirror) };
    let published = (linux_header.atomics(0).expect("the header fits"), counters, entries);
    let server = Server::new(Box::new(machine), memory_state, tsc_khz, settings, published);
    log!("{pages} pages for programs, stacks of {} KiB", settings.stack / 1024);
    let personality = Personality { shell: Shell::new(server), outbox, vfs, kept };
    server::happened_before(&personality.shell, &early);
    Root { personality, replies }
}

impl Root {
    /// Goes on where the last turn of the former instance ended.
    fn go_on(&mut self, torn: bool, given: bool, again: bool) {
        let Personality { shell, outbox, vfs, kept } = &self.personality;
        let turn = if torn { "a turn was undone" } else { "between two turns" };
        log!("going on with {} processes: {turn}", shell.with(|server| server.processes.iter().flatten().count()));
        let changed = if torn { shell.with(|server| server.machine.undo()) } else { Vec::new() };
        if given {
            // The one that it received with may keep a caller whose call was in no turn, or in the one that was undone.
            if let Some(reply) = self.replies.next() {
                let (label, value) = if again { (reply_label::LOST, -EIO as u64) } else { (reply_label::RETRY, 0) };
                // An error: it keeps nobody.
                let _ = reply.reply(label, &[value]);
            }
        }
        let failed = if given { Vec::new() } else { outbox.give(*vfs, true) };
        outbox.clear();
        shell.with(|server| {
            server.machine.begin_turn();
            if torn {
                server.recover(&changed);
            }
            if let Some([identity, label, _]) = kept.as_ref().filter(|_| again).map(KeptHeap::taken)
                && label == LABEL_FAULT
                && server.thread(identity_parts(identity).0).is_ok_and(|thread| thread.identity() == identity)
            {
                // A fault has no error to give.
                let leader = server.thread(identity_parts(identity).0).map_or(0, |thread| thread.leader);
                server.kill(leader);
            }
            server.is_late = true;
        });
        recovery::failed(shell, failed);
        // A signal that the former instance has taken does not come again.
        server::news(shell);
        shell.with(|server| server.is_late = false);
        server::time_passed(shell);
    }
}

/// The event loop's handlers.
struct Personality {
    shell: Rc<Shell>,
    outbox: Outbox,
    vfs: Cap<Endpoint>,
    kept: Option<KeptHeap>,
}

impl Personality {
    fn begin(&self, taken: Taken) {
        if let Some(kept) = &self.kept {
            kept.turn(taken);
        }
        self.shell.with(|server| server.machine.begin_turn());
    }
}

impl rt::Server for Personality {
    fn message(&mut self, message: &Message, caller: Caller, _: &mut Replies) -> Option<(Caller, Answer)> {
        self.begin([message.badge, message.label(), message.word(0)]);
        let reply = self.outbox.keep(caller, identity_parts(message.badge).0);
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
                self.outbox.refuse(reply);
            }
        }
        None
    }

    fn signal(&mut self, _: u64, _: &mut Replies) {
        self.begin([0; 3]);
        server::news(&self.shell);
    }

    fn timeout(&mut self, _: &mut Replies) {
        self.begin([0; 3]);
        server::time_passed(&self.shell);
    }

    /// First the state is made to last, then the others see what came of it.
    fn settle(&mut self, replies: &mut Replies) {
        loop {
            self.outbox.close(replies);
            if let Some(kept) = self.kept {
                kept.commit(&mut (&mut *self, &mut *replies));
            }
            let failed = self.outbox.give(self.vfs, false);
            self.outbox.clear();
            if let Some(kept) = self.kept {
                kept.given();
            }
            if failed.is_empty() {
                return;
            }
            self.begin([0; 3]);
            recovery::failed(&self.shell, failed);
        }
    }

    fn deadline(&self) -> Option<u64> {
        self.shell.with(|server| server.timers.next())
    }
}
