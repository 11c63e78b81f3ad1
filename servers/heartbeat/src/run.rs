//! What runs under the kernel.

use rt::vault::Kept;
use rt::{Answer, Caller, Message, Replies, Server, Start, log};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// What survives.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Memory {
    beats: u64,
}

struct Heartbeat {
    memory: Kept<Memory>,
    beats_of_this_instance: u64,
    period: u64,
    next: u64,
    report: u64,
    crash_at: Option<u64>,
    how: &'static str,
    end: Option<u64>,
    /// How late beats came, in ticks: the least and the most.
    late: (u64, u64),
    /// Beats that came a period too late, or later.
    missed: u64,
}

/// The server.
pub fn main(mut start: Start) -> ! {
    let number = |name| start.argument(name).and_then(|text| text.parse().ok());
    let khz = start.info.tsc_khz;
    let period = number("period-us").map(|us| rt::time::microseconds(us, khz));
    let period = period.unwrap_or(rt::time::milliseconds(number("period-ms").unwrap_or(100), khz));
    let (report, crash_at, end) = (number("report").unwrap_or(10), number("crash-at"), number("beats"));
    let how = start.argument("how").unwrap_or("panic");
    let memory: Kept<Memory> = start.vault().and_then(|vault| vault.open(1)).expect("the manifest gives a vault");
    log!("generation {}, vault {:?}, {} beats so far", start.info.generation, memory.found(), memory.get().beats);
    let mut replies = Replies::new(1);
    replies.fill(&mut start.slots).expect("memory for two Replies");
    let next = rt::time::now() + period;
    let mut server = Heartbeat {
        memory,
        beats_of_this_instance: 0,
        period,
        next,
        report,
        crash_at,
        how,
        end,
        late: (u64::MAX, 0),
        missed: 0,
    };
    rt::serve(&mut server, Start::ENDPOINT, &mut replies)
}

impl Server for Heartbeat {
    fn message(&mut self, _: &Message, caller: Caller, _: &mut Replies) -> Option<(Caller, Answer)> {
        Some((caller, Answer::new(0, &[self.memory.get().beats])))
    }

    fn timeout(&mut self, _: &mut Replies) {
        let late = rt::time::now().saturating_sub(self.next);
        self.late = (self.late.0.min(late), self.late.1.max(late));
        self.missed += u64::from(late >= self.period);
        self.next += self.period;
        self.beats_of_this_instance += 1;
        let beats = self.memory.change(|memory| {
            memory.beats += 1;
            memory.beats
        });
        if beats.is_multiple_of(self.report) {
            match self.missed {
                0 => log!("beat {beats}"),
                missed => log!("beat {beats}, {missed} missed"),
            }
        }
        if self.end == Some(beats) {
            log!("{beats} beats, that is all; {} to {} ticks late", self.late.0, self.late.1);
            let _ = Start::CONSOLE.halt(false);
        }
        if self.crash_at == Some(self.beats_of_this_instance) {
            self.crash();
        }
    }

    fn deadline(&self) -> Option<u64> {
        Some(self.next)
    }
}

impl Heartbeat {
    /// Does what the manifest asks for.
    fn crash(&self) -> ! {
        log!("crashing now: {}", self.how);
        rt::crash::by(self.how)
    }
}
