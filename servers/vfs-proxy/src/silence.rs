//! Whether Linux is still alive: its driver counts, and a count that stands still for too long is that of a Linux that hangs.

/// What is known of the other side's count.
#[derive(Debug)]
pub struct Silence {
    /// Ticks that it may stand still.
    limit: u64,
    count: u64,
    /// When it was seen to move last.
    since: u64,
    silent: bool,
}

/// What a look has found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The count has stood still for so many ticks, which is too long.
    Silent(u64),
    /// It moves again, after so many ticks.
    Back(u64),
}

impl Silence {
    /// Silent after `limit` ticks.
    pub fn new(limit: u64) -> Silence {
        Silence { limit, count: 0, since: 0, silent: false }
    }

    /// The count is this now. Nothing, if it is as it was.
    pub fn look(&mut self, count: u64, now: u64) -> Option<Change> {
        let still = now.saturating_sub(self.since);
        // The first look, and the first after a long time without one, know of no time before.
        if count != self.count || self.since == 0 {
            (self.count, self.since) = (count, now);
            return core::mem::take(&mut self.silent).then_some(Change::Back(still));
        }
        if self.silent || still <= self.limit {
            return None;
        }
        self.silent = true;
        Some(Change::Silent(still))
    }

    /// It is silent.
    pub fn is_silent(&self) -> bool {
        self.silent
    }

    /// How often to look, so that silence is noticed soon after it has lasted too long.
    pub fn interval(&self) -> u64 {
        (self.limit / 4).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_standing_still_for_too_long_is_silence() {
        let mut silence = Silence::new(10);
        assert_eq!(silence.look(7, 100), None);
        assert_eq!(silence.look(7, 110), None);
        assert_eq!(silence.look(8, 111), None);
        assert_eq!(silence.look(8, 121), None);
        assert_eq!((silence.look(8, 122), silence.is_silent()), (Some(Change::Silent(11)), true));
        assert_eq!(silence.look(8, 500), None);
        assert_eq!((silence.look(9, 600), silence.is_silent()), (Some(Change::Back(489)), false));
        // A count that goes back is a sign of life too.
        assert_eq!(silence.look(1, 700), None);
    }
}
