//! Object types, and the rights that a capability to one carries. Rights only shrink when a capability is copied.

use bitflags::bitflags;

/// What a capability can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum ObjectType {
    /// Memory nobody uses yet. Retype makes every other object of it.
    Untyped = 1,
    /// Contiguous memory, a multiple of 4 KiB, that can be mapped in parts; normal or device.
    Frame = 2,
    /// A user address space with its page-table memory and its foreign-call routes.
    AddressSpace = 3,
    /// A flat table of capability slots.
    CapTable = 4,
    /// A thread.
    Thread = 5,
    /// Processor time: priority, policy, budget and period.
    SchedContext = 6,
    /// A meeting place for synchronous messages.
    Endpoint = 7,
    /// The right to answer one caller, once; and while held, the lease on that caller.
    Reply = 8,
    /// A word of signal bits that one or more threads wait for.
    Notification = 9,
    /// One interrupt vector or line; the initial one stands for all and gives single ones.
    Irq = 10,
    /// A range of I/O ports.
    IoPort = 11,
    /// The kernel's console, write only.
    Console = 12,
}

impl ObjectType {
    /// The type with this number.
    pub fn from_raw(raw: u64) -> Option<ObjectType> {
        use ObjectType::*;
        [
            Untyped,
            Frame,
            AddressSpace,
            CapTable,
            Thread,
            SchedContext,
            Endpoint,
            Reply,
            Notification,
            Irq,
            IoPort,
            Console,
        ]
        .into_iter()
        .find(|t| *t as u64 == raw)
    }
}

bitflags! {
    /// What the holder of a capability may do with the object.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Rights: u8 {
        /// Receive from, wait on, map readable, read the state of.
        const READ = 1;
        /// Send to, signal, map writable, write the state of.
        const WRITE = 2;
        /// Send capabilities along with a message.
        const GRANT = 4;
        /// Map executable (Frame).
        const EXECUTE = 8;
        /// Configure, bind, retype, derive: everything that shapes the object itself.
        const CONTROL = 16;
    }
}

bitflags! {
    /// How pages are mapped. Write and execute together are refused.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Protection: u8 {
        /// Readable. Every mapping is; the bit is there for symmetry with `PROT_READ`.
        const READ = 1;
        /// Writable.
        const WRITE = 2;
        /// Executable.
        const EXECUTE = 4;
        /// Uncached (device registers). Frames of device memory are always mapped so.
        const UNCACHED = 8;
        /// For `map`: by pages of 2 MiB. Address, memory and length must be multiples of that, and such a page is only ever unmapped or
        /// protected as a whole.
        const LARGE = 16;
    }
}

impl Protection {
    /// Whether the combination may be mapped: readable, and not both writable and executable.
    pub fn is_legal(self) -> bool {
        self.contains(Protection::READ) && !self.contains(Protection::WRITE.union(Protection::EXECUTE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn write_and_execute_exclude_each_other() {
        assert!((Protection::READ | Protection::WRITE).is_legal());
        assert!((Protection::READ | Protection::EXECUTE).is_legal());
        assert!(!(Protection::READ | Protection::WRITE | Protection::EXECUTE).is_legal());
        assert!(!Protection::WRITE.is_legal());
    }

    #[test]
    fn object_types_round_trip() {
        for raw in 0..40 {
            if let Some(t) = ObjectType::from_raw(raw) {
                assert_eq!(t as u64, raw);
            }
        }
        assert_eq!(ObjectType::from_raw(0), None);
        assert_eq!(ObjectType::from_raw(13), None);
    }
}
