//! Whether a server still finishes turns of its event loop.
//!
//! A server that runs and runs, without taking anything more from its endpoint, spins. It is judged by the processor time that it has
//! used itself, so one that is kept from running by others is not taken for dead.

/// What is known of a server's event loop.
#[derive(Debug, Default)]
pub struct Watch {
    turns: u64,
    /// Processor time that it had used when its turn was seen to last.
    since: Option<u64>,
}

impl Watch {
    /// It has finished so many turns, has used so much processor time, and waits now or does not. `Some`: ticks that it has used in this turn,
    /// and they are more than `limit`.
    pub fn look(&mut self, turns: u64, consumed: u64, waits: bool, limit: u64) -> Option<u64> {
        if waits || turns != self.turns {
            *self = Watch { turns, since: None };
            return None;
        }
        let used = consumed.saturating_sub(*self.since.get_or_insert(consumed));
        (used > limit).then_some(used)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_time_used_in_one_turn_counts() {
        let mut watch = Watch::default();
        assert_eq!(watch.look(0, 100, false, 50), None);
        // It did not get the processor.
        assert_eq!(watch.look(0, 100, false, 50), None);
        assert_eq!(watch.look(0, 150, false, 50), None);
        assert_eq!(watch.look(0, 151, false, 50), Some(51));
        // A busy server goes on to the next turn.
        assert_eq!(watch.look(1, 300, false, 50), None);
        assert_eq!(watch.look(1, 400, false, 50), None);
        assert_eq!(watch.look(1, 420, true, 50), None);
        assert_eq!(watch.look(1, 900, false, 50), None);
        assert_eq!(watch.look(1, 951, false, 50), Some(51));
    }
}
