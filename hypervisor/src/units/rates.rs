//! When measured clock rates are believed.
//!
//! A clock can jump while it is measured (a processor that was stopped for a while by firmware, or an emulator that was), and it can do so
//! more than once in the same way. So nothing counts but what several measurements in a row agree on.

/// Rates in kHz.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    /// The local APIC's timer.
    pub apic: u32,
    /// The time stamp counter.
    pub tsc: u32,
}

/// Two measurements agree if they differ by no more than one part in so many.
const TOLERANCE: u32 = 200;
/// Measurements in a row that must agree.
const WANTED: u32 = 3;
/// Measurements before it is given up.
const MOST: u32 = 40;

const fn close(a: u32, b: u32) -> bool {
    a.abs_diff(b) <= a / TOLERANCE
}

/// Measures until it is sure. `None`: it cannot be.
pub fn settle(mut measure: impl FnMut() -> Option<Rates>) -> Option<Rates> {
    let mut first = measure()?;
    let mut agreed = 1;
    for _ in 1..MOST {
        let next = measure()?;
        let agrees = next.apic != 0 && next.tsc != 0 && close(first.apic, next.apic) && close(first.tsc, next.tsc);
        if !agrees {
            (first, agreed) = (next, 1);
            continue;
        }
        agreed += 1;
        if agreed == WANTED {
            return Some(next);
        }
    }
    None
}

/// The rate to use: what was given, unless it is not there or not what was measured.
#[must_use]
pub const fn choose(given: u32, measured: u32) -> u32 {
    if given != 0 && close(given, measured) { given } else { measured }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Rates = Rates { apic: 1_000_000, tsc: 2_600_000 };
    const TENTH: Rates = Rates { apic: 1_000_000, tsc: 260_000 };

    fn settled(of: &[Rates]) -> Option<Rates> {
        let mut samples = of.iter();
        settle(|| samples.next().copied())
    }

    #[test]
    fn several_must_agree() {
        let near = Rates { apic: 1_000_900, tsc: 2_599_000 };
        assert_eq!(settled(&[GOOD, near, GOOD]), Some(GOOD));
        assert_eq!(settled(&[TENTH, GOOD, GOOD, GOOD]), Some(GOOD));
        // The same jump twice is not a rate.
        assert_eq!(settled(&[TENTH, TENTH, GOOD, GOOD, GOOD]), Some(GOOD));
        assert_eq!(settled(&[GOOD, GOOD, TENTH, TENTH, GOOD, GOOD, near]), Some(near));
    }

    #[test]
    fn no_agreement_is_no_rate() {
        let mut n = 0;
        let mut unsteady = || {
            n += 1;
            Some(if n % 2 == 0 { GOOD } else { TENTH })
        };
        assert_eq!(settle(&mut unsteady), None);
        assert_eq!(settle(|| Some(Rates { apic: 0, tsc: 0 })), None);
        assert_eq!(settle(|| None), None, "no timer");
    }

    #[test]
    fn what_was_given_must_be_true() {
        assert_eq!(choose(0, 2_600_000), 2_600_000);
        assert_eq!(choose(2_599_900, 2_600_000), 2_599_900);
        assert_eq!(choose(260_000, 2_600_000), 2_600_000);
    }
}
