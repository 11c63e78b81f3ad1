//! When a server that died is started again.

use alloc::collections::VecDeque;
use ipc::blob::Restart;

/// What happens to a server that died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A new instance starts.
    Restart,
    /// It stays dead.
    StayDead,
    /// The whole system fails.
    Escalate,
}

/// The deaths of one server that its policy still counts.
#[derive(Debug, Default)]
pub struct History {
    deaths: VecDeque<u64>,
}

impl History {
    /// It died now (times in TSC ticks).
    pub fn died(&mut self, policy: &Restart, now: u64, tsc_khz: u64) -> Verdict {
        match policy {
            Restart::Always => Verdict::Restart,
            Restart::Never => Verdict::StayDead,
            Restart::Escalate => Verdict::Escalate,
            Restart::Limited { times, window_ms } => {
                let window = window_ms.saturating_mul(tsc_khz);
                while self.deaths.front().is_some_and(|death| now.saturating_sub(*death) >= window) {
                    self.deaths.pop_front();
                }
                if self.deaths.len() >= *times as usize {
                    return Verdict::StayDead;
                }
                self.deaths.push_back(now);
                Verdict::Restart
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_slides() {
        let policy = Restart::Limited { times: 2, window_ms: 10 };
        let mut history = History::default();
        let verdicts: Vec<_> = [0, 5, 9, 10, 14, 16].map(|ms| history.died(&policy, ms * 1000, 1000)).into();
        let (restart, dead) = (Verdict::Restart, Verdict::StayDead);
        assert_eq!(verdicts, [restart, restart, dead, restart, dead, restart]);
    }

    #[test]
    fn the_other_policies_have_no_memory() {
        let mut history = History::default();
        assert_eq!(history.died(&Restart::Always, 0, 1), Verdict::Restart);
        assert_eq!(history.died(&Restart::Never, 0, 1), Verdict::StayDead);
        assert_eq!(history.died(&Restart::Escalate, 0, 1), Verdict::Escalate);
    }
}
