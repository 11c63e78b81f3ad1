//! INIT and start-up interrupts on their way to a CPU.
//!
//! Both are in one word, so that their order is never lost: an INIT takes a start-up that was sent before it away, and one that was sent
//! behind it is taken together with it. Of several start-ups the first counts.

use core::sync::atomic::{AtomicU32, Ordering};

const INIT: u32 = 1 << 31;
const START_UP: u32 = 1 << 30;

/// What has arrived and was not yet taken. All zeros: nothing.
#[derive(Debug, Default)]
pub struct Signals(AtomicU32);

/// What was taken: first the INIT, then the start-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// There was an INIT.
    pub init: bool,
    /// Vector of the start-up that came first, behind the INIT if there was one.
    pub start_up: Option<u8>,
}

impl Signals {
    /// Nothing has arrived.
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// An INIT arrives.
    pub fn init(&self) {
        self.0.store(INIT, Ordering::Release);
    }

    /// A start-up arrives.
    pub fn start_up(&self, vector: u8) {
        let add = |word: u32| (word & START_UP == 0).then_some(word | START_UP | u32::from(vector));
        // Refused is one that comes behind another, which is ignored.
        let _ = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, add);
    }

    /// Takes what has arrived.
    pub fn take(&self) -> Taken {
        let word = self.0.swap(0, Ordering::AcqRel);
        Taken { init: word & INIT != 0, start_up: (word & START_UP != 0).then_some(word as u8) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_init_and_what_follows_are_taken_together() {
        let signals = Signals::new();
        assert_eq!(signals.take(), Taken { init: false, start_up: None });
        signals.init();
        signals.start_up(7);
        signals.start_up(9);
        assert_eq!(signals.take(), Taken { init: true, start_up: Some(7) });
        assert_eq!(signals.take(), Taken { init: false, start_up: None });
    }

    #[test]
    fn an_init_takes_an_earlier_start_up_away() {
        let signals = Signals::new();
        signals.start_up(0);
        signals.init();
        assert_eq!(signals.take(), Taken { init: true, start_up: None });
        signals.start_up(0);
        assert_eq!(signals.take(), Taken { init: false, start_up: Some(0) });
    }

    /// Whenever the receiver looks, a start-up that follows an INIT is taken with or behind it, and is never lost.
    #[test]
    fn no_start_up_overtakes_its_init() {
        const ROUNDS: usize = if cfg!(miri) { 50 } else { 10_000 };
        let (signals, round) = (Signals::new(), AtomicU32::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for n in 0..ROUNDS {
                    signals.init();
                    signals.start_up(n as u8);
                    while round.load(Ordering::Acquire) as usize == n {
                        std::thread::yield_now();
                    }
                }
            });
            for n in 0..ROUNDS {
                let mut waiting = false;
                loop {
                    let taken = signals.take();
                    waiting |= taken.init;
                    if let Some(vector) = taken.start_up {
                        assert!(waiting, "a start-up without its INIT");
                        assert_eq!(vector, n as u8);
                        break;
                    }
                    std::thread::yield_now();
                }
                round.store(n as u32 + 1, Ordering::Release);
            }
        });
    }
}
