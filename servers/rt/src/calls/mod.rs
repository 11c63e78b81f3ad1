//! Typed kernel calls: one wrapper per line of [`ipc::calls::CALLS`], as a method of the capability that it is about.

pub mod cap;
pub mod irq;
pub mod memory;
pub mod message;
pub mod thread;
pub mod time;

use crate::trap::{Registers, trap};
use core::fmt;
use core::marker::PhantomData;
use ipc::message::{REGISTER_WORDS, Request};
use ipc::{Call, Error, ObjectType};

pub use message::Message;
pub use thread::State;

/// What a kernel call gives.
pub type Result<T = ()> = core::result::Result<T, Error>;

/// A capability to an object of type `T`, by its slot in the server's own table. Copying the handle copies no authority.
pub struct Cap<T> {
    slot: u32,
    object: PhantomData<fn() -> T>,
}

/// A kind of kernel object.
pub trait Object {
    /// Its number in the contract.
    const TYPE: ObjectType;
}

macro_rules! objects {
    ($($(#[$doc:meta])* $name:ident,)*) => { $(
        $(#[$doc])*
        #[derive(Debug)]
        pub enum $name {}
        impl Object for $name { const TYPE: ObjectType = ObjectType::$name; }
    )* };
}

objects! {
    /// Memory nobody uses yet.
    Untyped,
    /// Contiguous memory that can be mapped.
    Frame,
    /// A user address space.
    AddressSpace,
    /// A flat table of capability slots.
    CapTable,
    /// A thread.
    Thread,
    /// Processor time.
    SchedContext,
    /// A meeting place for messages.
    Endpoint,
    /// The right to answer one caller.
    Reply,
    /// A word of signal bits.
    Notification,
    /// An interrupt, or all of them.
    Irq,
    /// A range of I/O ports.
    IoPort,
    /// The kernel's console.
    Console,
}

impl<T> Cap<T> {
    /// The handle for what lies in this slot. A wrong type does no harm: the kernel refuses the call.
    pub const fn new(slot: u32) -> Cap<T> {
        Cap { slot, object: PhantomData }
    }

    /// The slot.
    pub const fn slot(self) -> u32 {
        self.slot
    }

    /// A call with up to eight arguments after the capability.
    fn invoke<const N: usize>(self, call: Call, arguments: [u64; N]) -> Result<[u64; 4]> {
        invoke(call, self.slot, arguments)
    }
}

impl<T> Clone for Cap<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Cap<T> {}

impl<T> PartialEq for Cap<T> {
    fn eq(&self, other: &Self) -> bool {
        self.slot == other.slot
    }
}

impl<T> Eq for Cap<T> {}

impl<T> fmt::Debug for Cap<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", core::any::type_name::<T>().rsplit("::").next().unwrap_or("?"), self.slot)
    }
}

fn invoke<const N: usize>(call: Call, slot: u32, arguments: [u64; N]) -> Result<[u64; 4]> {
    let (status, registers) = invoke_raw(call, slot, arguments);
    check(status)?;
    Ok([registers.first, registers.second, registers.words[0], registers.words[1]])
}

/// A call that may do part of its work: gives the first result, how much was done, also then.
fn invoke_partial<const N: usize>(call: Call, slot: u32, arguments: [u64; N]) -> Result<u64> {
    invoke_partial_words(call, slot, arguments).map(|(done, _)| done)
}

/// The same, with the words that come besides.
fn invoke_partial_words<const N: usize>(
    call: Call,
    slot: u32,
    arguments: [u64; N],
) -> Result<(u64, [u64; REGISTER_WORDS])> {
    let (status, registers) = invoke_raw(call, slot, arguments);
    if status != Error::Partial as u64 {
        check(status)?;
    }
    Ok((registers.first, registers.words))
}

fn invoke_raw<const N: usize>(call: Call, slot: u32, arguments: [u64; N]) -> (u64, Registers) {
    const { assert!(N <= REGISTER_WORDS + 1) };
    let mut registers = Registers { first: slot.into(), second: 0, words: [0; REGISTER_WORDS] };
    for (index, argument) in arguments.into_iter().enumerate() {
        match index {
            0 => registers.second = argument,
            _ => registers.words[index - 1] = argument,
        }
    }
    let status = trap(Request::new(call, 0, 0), &mut registers);
    (status, registers)
}

/// A raw status as a result. A number that names no error is treated as `InvalidCall`.
fn check(status: u64) -> Result {
    match status {
        0 => Ok(()),
        raw => Err(Error::from_raw(raw).unwrap_or(Error::InvalidCall)),
    }
}

/// What `system_info` tells.
#[derive(Clone, Copy, Debug)]
pub struct SystemInfo {
    /// Time-stamp counter ticks per millisecond.
    pub tsc_khz: u64,
    /// Whether the system runs in a cell of the hypervisor.
    pub in_cell: bool,
    /// Guest-physical address of the image header.
    pub image_header: u64,
    /// Number of the virtual CPU.
    pub cpu: u64,
}

/// Does nothing.
pub fn null() -> Result {
    invoke(Call::Null, 0, []).map(drop)
}

/// Lets others of the same priority run.
pub fn yield_now() {
    // The call has no way to fail.
    let _ = invoke(Call::Yield, 0, []);
}

/// Facts about the machine.
pub fn system_info() -> Result<SystemInfo> {
    let [tsc_khz, flags, image_header, cpu] = invoke(Call::SystemInfo, 0, [])?;
    Ok(SystemInfo { tsc_khz, in_cell: flags & 1 != 0, image_header, cpu })
}
