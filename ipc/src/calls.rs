//! Every kernel call: number, object, arguments, rights, results and errors, in one table.
//! The kernel's decoder, the servers' stubs and the reference page come from it.
//!
//! Arguments are named in register order after the capability in `rdi`: `rsi rdx r10 r8 r9 r12 r13 r14`.
//! Results come back in `rdi rsi rdx r10`. "slot" arguments are indices in the caller's own table unless a table is named.

use crate::error::Error;
use crate::rights::{ObjectType, Rights};

/// One line of the call table.
#[derive(Clone, Copy, Debug)]
pub struct CallInfo {
    /// The call.
    pub call: Call,
    /// Its name in the documentation and in traces.
    pub name: &'static str,
    /// The object that the capability in `rdi` must name; `None` where no capability is needed or several types will do.
    pub object: Option<ObjectType>,
    /// The rights needed on it.
    pub rights: Rights,
    /// Arguments, in register order.
    pub arguments: &'static [&'static str],
    /// Results, in register order.
    pub results: &'static [&'static str],
    /// What it does.
    pub doc: &'static str,
    /// Errors it can give besides those that every call with a capability can give
    /// (`InvalidCapability`, `WrongType`, `MissingRights`, `InvalidArgument`).
    pub errors: &'static [Error],
}

macro_rules! calls {
    ($( $number:literal $variant:ident $name:literal $object:expr, $rights:expr,
        [$($arg:literal),*] -> [$($res:literal),*], $doc:literal, [$($err:ident),*]; )*) => {
        /// The number of a kernel call.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Call { $( #[doc = $doc] $variant = $number, )* }

        impl Call {
            /// The call with this number.
            pub const fn from_raw(raw: u8) -> Option<Call> {
                match raw { $( $number => Some(Call::$variant), )* _ => None }
            }
        }

        /// The call table, in numeric order.
        pub const CALLS: &[CallInfo] = &[ $( CallInfo {
            call: Call::$variant, name: $name, object: $object, rights: $rights,
            arguments: &[$($arg),*], results: &[$($res),*], doc: $doc, errors: &[$(Error::$err),*],
        }, )* ];
    };
}

const NONE: Rights = Rights::empty();
const R: Rights = Rights::READ;
const W: Rights = Rights::WRITE;
const C: Rights = Rights::CONTROL;

use ObjectType as T;

calls! {
    // Without a capability.
    0 Null "null" None, NONE, [] -> [], "Does nothing: the cheapest call.", [];
    1 Yield "yield" None, NONE, [] -> [], "The caller goes to the tail of its priority's queue.", [];
    2 SystemInfo "system_info" None, NONE, [] -> ["tsc_khz", "flags (bit 0: in a cell)", "physical address of the image header", "virtual CPU number"],
        "Facts about the machine that do not change.", [];

    // Messages. `rsi` is the tag, the words follow.
    8 Send "send" Some(T::Endpoint), W, ["tag", "words…"] -> [], "Sends and waits until a receiver has taken the message.", [TimedOut, Cancelled];
    9 TrySend "try_send" Some(T::Endpoint), W, ["tag", "words…"] -> [], "Sends if a receiver waits.", [WouldBlock];
    10 Call "call" Some(T::Endpoint), W, ["tag", "words…"] -> ["0", "tag", "words…"], "Sends, lends the caller's time, and waits for the answer.", [TimedOut, Cancelled, PeerDead];
    11 Receive "receive" Some(T::Endpoint), R, ["(second slot: Reply, or 0)"] -> ["badge", "tag", "words…"],
        "Waits for a message, a signal of the bound notification (tag label 0 with 0 words, badge = bits | 1<<63), or the deadline. The caller of a `call` is kept in the Reply.", [TimedOut, Cancelled, Busy];
    12 TryReceive "try_receive" Some(T::Endpoint), R, ["(second slot: Reply, or 0)"] -> ["badge", "tag", "words…"], "Receives if something is there.", [WouldBlock, Busy];
    13 Reply "reply" Some(T::Reply), W, ["tag", "words…"] -> [], "Answers the caller kept in the Reply; its time goes back with the answer.", [NotFound];
    14 ReplyReceive "reply_receive" Some(T::Endpoint), R, ["tag", "words… (second slot: Reply)"] -> ["badge", "tag", "words…"],
        "Answers the caller kept in the Reply (nobody there: no error), then receives on the endpoint into the same Reply.", [TimedOut, Cancelled];
    15 Signal "signal" Some(T::Notification), W, [] -> [], "Ors the capability's badge into the word and wakes a waiter.", [];
    16 Wait "wait" Some(T::Notification), R, [] -> ["bits"], "Waits until the word is not 0, takes it.", [TimedOut, Cancelled];
    17 Poll "poll" Some(T::Notification), R, [] -> ["bits"], "Takes the word if it is not 0.", [WouldBlock];
    18 LeaseRead "lease_read" Some(T::Reply), R, ["address in the caller's space", "destination in own space", "bytes (≤ 4096)"] -> ["bytes copied"],
        "Copies from the memory of the caller that the Reply keeps.", [NotFound];
    19 LeaseWrite "lease_write" Some(T::Reply), R, ["address in the caller's space", "source in own space", "bytes (≤ 4096)"] -> ["bytes copied"],
        "Copies to the memory of the caller that the Reply keeps.", [NotFound];

    // Untyped and capability tables.
    24 Retype "retype" Some(T::Untyped), C, ["object type", "size (see the object's page)", "first empty slot", "count"] -> [],
        "Makes objects of the memory; their capabilities, with all rights, go to the slots. Private memory is zeroed, shared and device memory handed out as it is.", [OutOfMemory, SlotOccupied];
    25 UntypedInfo "untyped_info" Some(T::Untyped), NONE, [] -> ["physical address", "bytes", "bytes used", "kind (0 normal, 1 shared, 2 device)"], "Where and how much.", [];
    28 CapCopy "cap_copy" Some(T::CapTable), C, ["destination slot in that table", "source slot", "rights mask", "badge (Endpoint, Notification), or ceiling plus 1 (Untyped, SchedContext); 0 keeps"] -> [],
        "Copies one of the caller's capabilities into the table, rights and-ed with the mask. A badge can be set once; a ceiling becomes the lower one of the two.", [SlotOccupied];
    29 CapMove "cap_move" Some(T::CapTable), C, ["destination slot in that table", "source slot"] -> [], "Moves one of the caller's capabilities into the table.", [SlotOccupied];
    30 CapDelete "cap_delete" Some(T::CapTable), C, ["slot in that table"] -> [], "Empties the slot. The last capability takes the object with it. Partial: call again.", [Partial];
    31 CapRevoke "cap_revoke" Some(T::CapTable), C, ["slot in that table"] -> [], "Deletes everything derived from the capability in that slot; it stays. Memory goes back to its Untyped. Partial: call again.", [Partial];
    32 CapIdentify "cap_identify" Some(T::CapTable), NONE, ["slot in that table"] -> ["object type (0 empty)", "rights", "badge, or ceiling of an Untyped or SchedContext"], "What a slot holds.", [];

    // Memory.
    36 Map "map" Some(T::AddressSpace), C, ["Frame slot", "first page in the frame", "virtual address", "pages", "protection"] -> ["pages done"],
        "Maps pages of a Frame. Existing mappings in the range are an error. Protection: 1 read, 2 write, 4 execute (not both), 8 uncached; 16: by pages of 2 MiB, to which address, memory and length must be aligned. Partial: call again for the rest.", [Partial, Busy, OutOfMemory];
    37 Unmap "unmap" Some(T::AddressSpace), C, ["virtual address", "pages"] -> ["pages done"], "Unmaps what is mapped in the range, a large page only as a whole. Partial: call again.", [Partial];
    38 Protect "protect" Some(T::AddressSpace), C, ["virtual address", "pages", "protection"] -> ["pages done"], "Changes the protection of what is mapped in the range, of a large page only as a whole. Partial: call again.", [Partial];
    39 SetRoute "set_route" Some(T::AddressSpace), C, ["first number", "last number", "route (0–6; 7 means: answer ENOSYS)"] -> [],
        "Foreign calls with these numbers (0–511) go to that route. Initially all are 7; numbers above 511 always are.", [];
    40 BindRoute "bind_route" Some(T::AddressSpace), C, ["route (0–6)", "Endpoint slot"] -> [], "Foreign calls of that route go to the endpoint. Needs WRITE on it.", [];
    41 Extend "extend" Some(T::AddressSpace), C, ["Untyped slot"] -> [], "Gives all that is left of an Untyped as further page-table memory.", [OutOfMemory];
    42 FrameInfo "frame_info" Some(T::Frame), NONE, [] -> ["physical address", "bytes", "kind (0 normal, 1 shared, 2 device)"], "Where and how much.", [];
    43 TakeDirty "take_dirty" Some(T::AddressSpace), C, ["virtual address", "pages"] -> ["pages done", "–", "eight words: bit i is page i"],
        "Which pages have been written since this was last asked, or since they were mapped. At most 512 at once; stops at a large page. Partial: what is done is not asked again; call again for the rest.", [Partial];

    // Threads.
    48 ThreadConfigure "thread_configure" Some(T::Thread), C,
        ["AddressSpace slot", "CapTable slot (0: a foreign thread, that has none)", "fault Endpoint slot (0: none)", "message-buffer Frame slot (0: none)", "page in that frame", "id word"] -> [],
        "What a thread runs in. It must be stopped.", [Busy];
    49 ThreadResume "thread_resume" Some(T::Thread), C, [] -> [], "Lets a stopped thread run (once it has time).", [];
    50 ThreadSuspend "thread_suspend" Some(T::Thread), C, [] -> [], "Stops a thread wherever it is. A call in progress ends with Cancelled when it is resumed (a foreign call: with EINTR).", [];
    51 ThreadReadRegisters "thread_read_registers" Some(T::Thread), R, [] -> [], "Copies the registers of a thread that is not running to the caller's message buffer.", [Busy];
    52 ThreadWriteRegisters "thread_write_registers" Some(T::Thread), W, [] -> [], "Sets the registers of a thread that is not running from the caller's message buffer. Privileged flag bits are masked.", [Busy];
    53 ThreadBindNotification "thread_bind_notification" Some(T::Thread), C, ["Notification slot (0: unbind)"] -> [], "Receives of the thread also return on signals of this notification.", [Busy];
    54 ThreadSetTls "thread_set_tls" Some(T::Thread), W, ["FS base"] -> [], "Sets the FS base of a thread that is not running.", [Busy];
    55 ThreadState "thread_state" Some(T::Thread), R, [] -> ["state (0 stopped, 1 ready or running, 2 sending, 3 receiving, 4 waiting for an answer, 5 waiting for a signal, 6 faulted)", "consumed TSC ticks", "rip"], "What a thread is doing.", [];
    56 ThreadCopyFpu "thread_copy_fpu" Some(T::Thread), W, ["source Thread slot"] -> [], "Copies the FPU state of one stopped or blocked thread to another (fork).", [Busy];
    57 ThreadFpu "thread_fpu" Some(T::Thread), W, ["address in own space", "bytes", "direction (0 read, 1 write)"] -> ["bytes"], "Copies the XSAVE image of a thread that is not running (signal frames).", [Busy];

    // Time.
    60 SchedConfigure "sched_configure" Some(T::SchedContext), C, ["priority (0–255, 255 highest)", "policy (0 FIFO, 1 RR)", "RR quantum in TSC ticks", "budget in TSC ticks (0: unlimited)", "period in TSC ticks"] -> [],
        "Sets priority, policy and budget. A priority above the capability's ceiling is MissingRights.", [];
    61 SchedBind "sched_bind" Some(T::SchedContext), C, ["Thread slot"] -> [], "Gives the thread this time as its own.", [Busy];
    62 SchedUnbind "sched_unbind" Some(T::SchedContext), C, [] -> [], "Takes the time from its thread.", [];
    63 SchedConsumed "sched_consumed" Some(T::SchedContext), R, [] -> ["TSC ticks"], "Time used since it was made.", [];

    // Interrupts and ports.
    68 IrqDerive "irq_derive" Some(T::Irq), C, ["kind (0 message-signalled, 1 IOAPIC pin)", "pin (kind 1)", "pin flags: bit 0 level, bit 1 active low", "empty slot"] -> ["vector"],
        "Makes a capability to one interrupt from the initial Irq capability.", [SlotOccupied, OutOfMemory];
    69 IrqBind "irq_bind" Some(T::Irq), C, ["Notification slot (0: unbind)"] -> [], "Each interrupt signals the notification with the capability's badge.", [Busy];
    70 IrqAck "irq_ack" Some(T::Irq), W, [] -> [], "Lets the next interrupt come (unmasks a level-triggered pin).", [];
    71 IrqMessage "irq_message" Some(T::Irq), R, [] -> ["message address", "message data"], "What to program into an MSI or MSI-X entry.", [];
    74 PortDerive "port_derive" Some(T::IoPort), C, ["first port", "count", "empty slot"] -> [], "Makes a capability to a part of the range.", [SlotOccupied];
    75 PortIn "port_in" Some(T::IoPort), R, ["port", "bytes (1, 2, 4)"] -> ["value"], "Reads a port.", [];
    76 PortOut "port_out" Some(T::IoPort), W, ["port", "bytes (1, 2, 4)", "value"] -> [], "Writes a port.", [];

    // Console.
    80 ConsoleWrite "console_write" Some(T::Console), W, ["bytes (≤ 56)", "bytes packed in seven words…"] -> ["bytes done"], "Appends to the kernel's console. Partial: call again for the rest.", [Partial];
    81 SystemHalt "system_halt" Some(T::Console), C, ["reason (0 shut down, 1 failed)"] -> [], "Ends this system: tells the hypervisor by the communication region, or powers the machine off.", [];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order_and_numbers_agree() {
        for pair in CALLS.windows(2) {
            assert!((pair[0].call as u8) < (pair[1].call as u8));
        }
        for info in CALLS {
            assert_eq!(Call::from_raw(info.call as u8), Some(info.call));
            assert!(info.object.is_some() || info.rights.is_empty());
        }
        assert_eq!(Call::from_raw(255), None);
    }
}
