//! What runs under the kernel: start-up and the event loop.

mod live;

use alloc::boxed::Box;
use ipc::message::LABEL_FOREIGN;
use ipc::protocol::vfs;
use ipc::shadow::MAX_SLOTS;
use live::{Live, Port};
use rt::vault::Found;
use rt::{Answer, Caller, Message, Replies, Server, Start, log};
use vfs_proxy::book::{Book, VERSION};
use vfs_proxy::client;
use vfs_proxy::silence::{Change, Silence};
use vfs_proxy::state::{State, linux_errors::EIO};
use zerocopy::FromZeros;

/// Milliseconds between heartbeats; with each the rings are looked at too, in case a doorbell was lost.
const BEAT_MS: u64 = 80;
/// So much later a beat may be while programs keep the processor busy, where that saves interrupts.
const SLACK_MS: u64 = 100;
/// One Reply for each thread slot, and some for callers that are answered at once.
const REPLIES: usize = MAX_SLOTS + 4;
const NO_MEMORY: &str = "the manifest gives slots and memory for all Replies";
/// Linux error: no such device.
const ENODEV: u64 = 19;

/// The server.
pub fn main(mut start: Start) -> ! {
    match Live::find(&start) {
        Some(live) => forward(start, live),
        None => {
            log!("there is no shadow device: forwarded calls fail");
            let mut replies = Replies::new(0);
            replies.fill(&mut start.slots).expect(NO_MEMORY);
            rt::serve(&mut Alone, Start::ENDPOINT, &mut replies)
        }
    }
}

fn forward(mut start: Start, mut live: Live) -> ! {
    let (book, found) = match start.vault().and_then(|vault| vault.open::<Book>(VERSION)) {
        Some(kept) => {
            let found = kept.found();
            (kept.into_inner(), found)
        }
        // No vault: a crash then costs what is under way.
        None => (Box::leak(Box::new(Book::new_zeroed())), Found::Nothing),
    };
    // Nobody is kept yet, so nothing can be answered here.
    let mut none = Replies::new(0);
    let mut port = Port { live: &mut live, replies: &mut none };
    let state = match found {
        Found::Nothing => {
            port.live.silence();
            // Ids of a former life of the cell must never come again: the counter has gone on since.
            State::fresh(book, rt::time::now(), &mut port)
        }
        Found::Whole | Found::Torn => State::recover(book, &mut port),
    };
    // They come in the same slots in each instance: the first ones of the table that are free.
    let mut replies = Replies::new(REPLIES);
    replies.fill_except(&mut start.slots, |slot| state.kept().any(|kept| kept == slot)).expect(NO_MEMORY);
    live.announce(start.info.tsc_khz);
    let beat = rt::time::milliseconds(BEAT_MS, start.info.tsc_khz);
    rt::buffer::set_slack(rt::time::milliseconds(SLACK_MS, start.info.tsc_khz));
    log!("shadow channel ready, {} calls under way", state.kept().count());
    // The first beat is due at once: it looks at what was there before the interrupts were enabled.
    let number = |name| start.argument(name).and_then(|text| text.parse::<u64>().ok());
    let silence = number("silent-ms").map(|ms| Silence::new(rt::time::milliseconds(ms, start.info.tsc_khz)));
    live.want_pulse(number("silent-ms").map_or(0, |ms| ms.saturating_mul(1000) / 4));
    let khz = start.info.tsc_khz.max(1);
    let fails = start.argument("silent") == Some("eio");
    let mut forwarder = Forwarder { state, live, beat, next_beat: 0, silence, fails, khz };
    rt::serve(&mut forwarder, Start::ENDPOINT, &mut replies)
}

struct Forwarder {
    state: State<'static>,
    live: Live,
    beat: u64,
    next_beat: u64,
    /// Whether Linux lives, if the manifest wants to know.
    silence: Option<Silence>,
    /// While it is silent, calls fail; else they wait.
    fails: bool,
    /// Ticks per millisecond.
    khz: u64,
}

impl Server for Forwarder {
    fn message(&mut self, message: &Message, caller: Caller, replies: &mut Replies) -> Option<(Caller, Answer)> {
        let mut port = Port { live: &mut self.live, replies };
        if message.label() == LABEL_FOREIGN {
            if self.fails && self.silence.as_ref().is_some_and(Silence::is_silent) {
                return Some((caller, Answer::value(-EIO)));
            }
            let args = core::array::from_fn(|index| message.word(1 + index));
            return match self.state.call(message.badge, message.word(0), args, caller.reply().slot(), &mut port) {
                Ok(()) => None,
                Err(error) => Some((caller, Answer::value(-error))),
            };
        }
        let reply = client::serve(&mut self.state, message.label(), |index| message.word(index), &mut port);
        Some((caller, Answer::new(reply.label, reply.words())))
    }

    /// Either interrupt of the device: message-signalled, so there is nothing to acknowledge.
    fn signal(&mut self, _bits: u64, replies: &mut Replies) {
        self.look(replies);
    }

    fn timeout(&mut self, replies: &mut Replies) {
        self.listen(replies);
        if rt::time::now() < self.next_beat {
            return;
        }
        self.next_beat = rt::time::now() + self.beat;
        self.live.beat();
        self.look(replies);
    }

    fn deadline(&self) -> Option<u64> {
        let silence = self.silence.as_ref().filter(|silence| !silence.is_silent() && self.state.waits());
        let soon = silence.map(|silence| rt::time::now() + silence.interval());
        Some(soon.map_or(self.next_beat, |soon| soon.min(self.next_beat)))
    }
}

impl Forwarder {
    /// Whether Linux still shows that it lives.
    fn listen(&mut self, replies: &mut Replies) {
        let Some(silence) = self.silence.as_mut().filter(|_| self.state.attached()) else { return };
        match silence.look(self.live.pulse(), rt::time::now()) {
            Some(Change::Silent(ticks)) => {
                let ended = if self.fails { self.state.fail(&mut Port { live: &mut self.live, replies }) } else { 0 };
                log!("Linux is silent: no sign of life for {} us; {ended} calls ended", ticks * 1000 / self.khz);
            }
            Some(Change::Back(ticks)) => log!("Linux lives again, after {} ms", ticks / self.khz),
            None => {}
        }
    }

    fn look(&mut self, replies: &mut Replies) {
        let was_attached = self.state.attached();
        self.state.look(&mut Port { live: &mut self.live, replies });
        match (was_attached, self.state.attached()) {
            (false, true) => log!("Linux is there"),
            (true, false) => log!("Linux is gone"),
            _ => {}
        }
    }
}

/// The server of a system that has no Linux beside it.
struct Alone;

impl Server for Alone {
    fn message(&mut self, message: &Message, caller: Caller, _: &mut Replies) -> Option<(Caller, Answer)> {
        let answer = match message.label() {
            LABEL_FOREIGN => Answer::value(-EIO),
            vfs::COLLECT => Answer::new(vfs::OK, &[]),
            _ => Answer::new(vfs::ERROR, &[ENODEV]),
        };
        Some((caller, answer))
    }
}
