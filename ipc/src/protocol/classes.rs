//! Classes of Linux system calls that are forwarded to Linux. A manifest can name those that a system forwards; the others are
//! refused by the kernel. What the personality answers itself (memory, time, threads, futexes, signals, scheduling) is in none.

use core::ops::RangeInclusive;

/// A class: its name, and the numbers that belong to it.
pub type Class = (&'static str, &'static [RangeInclusive<u64>]);

/// All of them. A number in none of the others belongs to the first.
pub const CLASSES: [Class; 5] = [
    // Open files, directories, credentials, and what else a program without a network does.
    ("files", &[]),
    ("network", &[41..=55, 288..=288, 299..=299, 307..=307]),
    // poll, select, epoll, inotify, fanotify, eventfd, timerfd.
    (
        "events",
        &[
            7..=7,
            23..=23,
            213..=213,
            232..=233,
            253..=255,
            270..=271,
            281..=281,
            283..=284,
            286..=287,
            290..=291,
            294..=294,
            300..=301,
            441..=441,
        ],
    ),
    // Semaphores and message queues, of System V and of POSIX.
    ("ipc", &[64..=66, 68..=71, 220..=220, 240..=245]),
    // What changes the machine or looks into other processes: mounts, modules, clocks, host name, reboot, keys.
    (
        "system",
        &[
            103..=103,
            153..=153,
            155..=155,
            159..=159,
            161..=161,
            163..=180,
            227..=227,
            246..=246,
            248..=250,
            305..=305,
            310..=313,
            320..=320,
            428..=433,
            442..=446,
        ],
    ),
];

/// A set of classes, by bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Classes(u32);

impl Classes {
    /// All.
    pub const ALL: Classes = Classes((1 << CLASSES.len()) - 1);
    /// None.
    pub const NONE: Classes = Classes(0);

    /// With the class of that name; `None`: there is no such class.
    pub fn with(self, name: &str) -> Option<Classes> {
        let index = CLASSES.iter().position(|(class, _)| *class == name)?;
        Some(Classes(self.0 | 1 << index))
    }

    /// Whether the class of that call is among them.
    pub fn contain(self, number: u64) -> bool {
        let special = CLASSES.iter().position(|(_, numbers)| numbers.iter().any(|range| range.contains(&number)));
        self.0 & 1 << special.unwrap_or(0) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_one_class() {
        for number in 0..512 {
            let named =
                CLASSES.iter().filter(|(_, numbers)| numbers.iter().any(|range| range.contains(&number))).count();
            assert!(named <= 1, "{number}");
            assert!(Classes::ALL.contain(number) && !Classes::NONE.contain(number));
        }
    }

    #[test]
    fn a_set_has_what_was_put_into_it() {
        let set = Classes::NONE.with("files").and_then(|set| set.with("network")).unwrap();
        // read, socket, epoll_wait, mount
        assert_eq!([0, 41, 232, 165].map(|number| set.contain(number)), [true, true, false, false]);
        assert_eq!(set.with("nothing"), None);
    }
}
