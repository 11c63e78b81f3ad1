//! Start-up: from the entry point to the server's `main`, with what the manifest grants it.
#![allow(unsafe_code)] // The start information and the heap lie at fixed addresses that init has mapped.

use crate::allocator::HEAP;
use crate::calls::{
    AddressSpace, Cap, CapTable, Console, Endpoint, Frame, IoPort, Irq, Notification, Object, SchedContext, Thread,
    Untyped,
};
use crate::shared::Mapping;
use crate::slots::Slots;
use crate::vault::Vault;
use alloc::boxed::Box;
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use ipc::blob::{Granted, StartInfo};
use ipc::slots;

static NAME: AtomicPtr<u8> = AtomicPtr::new(core::ptr::null_mut());
static NAME_LENGTH: AtomicUsize = AtomicUsize::new(0);

/// The server's name, or "server" before it is known.
pub fn name() -> &'static str {
    let start = NAME.load(Ordering::Acquire);
    if start.is_null() {
        return "server";
    }
    // SAFETY: `set_name` stored pointer and length of a &'static str, the length first.
    unsafe { core::str::from_utf8_unchecked(core::slice::from_raw_parts(start, NAME_LENGTH.load(Ordering::Relaxed))) }
}

/// Sets the name that `log!` prints. Once, at the start.
pub fn set_name(name: &'static str) {
    NAME_LENGTH.store(name.len(), Ordering::Relaxed);
    NAME.store(name.as_ptr().cast_mut(), Ordering::Release);
}

/// Gives the heap its memory, at its fixed address.
///
/// # Safety
/// `bytes` bytes are mapped writable at [`slots::layout::HEAP`], and nothing was allocated or given before.
pub unsafe fn init_heap(bytes: u64) {
    if bytes != 0 {
        let start = core::ptr::with_exposed_provenance_mut(slots::layout::HEAP as usize);
        // SAFETY: handed on to our caller.
        unsafe { HEAP.init(start, bytes as usize) };
    }
}

/// What the server was started with.
#[derive(Debug)]
pub struct Start {
    /// Name, generation, arguments, grants.
    pub info: &'static StartInfo,
    /// The free slots of its table.
    pub slots: Slots,
    vault: Option<Vault>,
}

impl Start {
    /// Its own capability table.
    pub const CAP_TABLE: Cap<CapTable> = Cap::new(slots::CAP_TABLE);
    /// Its own address space.
    pub const ADDRESS_SPACE: Cap<AddressSpace> = Cap::new(slots::ADDRESS_SPACE);
    /// Its own thread.
    pub const THREAD: Cap<Thread> = Cap::new(slots::THREAD);
    /// Its own time.
    pub const SCHED_CONTEXT: Cap<SchedContext> = Cap::new(slots::SCHED_CONTEXT);
    /// Where it receives.
    pub const ENDPOINT: Cap<Endpoint> = Cap::new(slots::ENDPOINT);
    /// The notification bound to its thread.
    pub const NOTIFICATION: Cap<Notification> = Cap::new(slots::NOTIFICATION);
    /// The kernel's console.
    pub const CONSOLE: Cap<Console> = Cap::new(slots::CONSOLE);
    /// The memory of which it makes its own objects.
    pub const UNTYPED: Cap<Untyped> = Cap::new(slots::UNTYPED);

    /// The value of an argument `name=value`.
    pub fn argument(&self, name: &str) -> Option<&'static str> {
        self.info.args.iter().find_map(|text| text.strip_prefix(name)?.strip_prefix('='))
    }

    /// A grant by its name in the manifest.
    pub fn grant(&self, name: &str) -> Option<&'static Granted> {
        self.info.grants.iter().find(|grant| grant.name == name)
    }

    /// The capability of a grant, if the grant exists and is of that type. (A grant whose device is absent is an empty slot.)
    pub fn cap<T: Object>(&self, name: &str) -> Option<Cap<T>> {
        let slot = self.grant(name)?.slot;
        let identity = Self::CAP_TABLE.identify(slot).ok()??;
        (identity.object == T::TYPE).then(|| Cap::new(slot))
    }

    /// A server that this one may call.
    pub fn endpoint(&self, name: &str) -> Option<Cap<Endpoint>> {
        self.cap(name)
    }

    /// A notification.
    pub fn notification(&self, name: &str) -> Option<Cap<Notification>> {
        self.cap(name)
    }

    /// An interrupt.
    pub fn irq(&self, name: &str) -> Option<Cap<Irq>> {
        self.cap(name)
    }

    /// A range of ports.
    pub fn ports(&self, name: &str) -> Option<Cap<IoPort>> {
        self.cap(name)
    }

    /// A frame, mapped or not.
    pub fn frame(&self, name: &str) -> Option<Cap<Frame>> {
        self.cap(name)
    }

    /// The memory of a grant that init has mapped.
    pub fn memory(&self, name: &str) -> Option<Mapping> {
        let grant = self.grant(name).filter(|grant| grant.vaddr != 0 && grant.size != 0)?;
        // SAFETY: init has mapped the grant there for the server's life, it overlaps nothing else of the server, and the
        // server's own code reaches it through this mapping alone.
        Some(unsafe { Mapping::new(grant.vaddr as usize, grant.size as usize) })
    }

    /// The vault, if the manifest gives one; once.
    pub fn vault(&mut self) -> Option<Vault> {
        self.vault.take()
    }
}

/// Reads the start information and runs `main`. Called by [`entry!`](crate::entry).
#[doc(hidden)]
pub fn run(main: fn(Start) -> !) -> ! {
    let page = core::ptr::with_exposed_provenance::<u32>(slots::layout::START_INFO as usize);
    // SAFETY: init has mapped the start information there, read only and for good: two words, then as many bytes as the first says.
    let (heap_pages, bytes) = unsafe {
        let (length, heap_pages) = (page.read(), page.add(1).read());
        (heap_pages, core::slice::from_raw_parts(page.add(2).cast::<u8>(), length as usize))
    };
    // SAFETY: init has mapped so many pages; nothing has run before.
    unsafe { init_heap(u64::from(heap_pages) * 4096) };
    let info = postcard::from_bytes::<StartInfo>(bytes).expect("the start information is what init encoded");
    let info: &'static StartInfo = Box::leak(Box::new(info));
    set_name(&info.name);
    let vault = (info.vault != 0).then(|| {
        // SAFETY: init has mapped the vault there, writable, for this server alone, and this is the only use of it.
        unsafe { Vault::new(slots::layout::VAULT as usize, info.vault as usize) }
    });
    main(Start { info, slots: Slots::new(slots::FIRST_FREE, info.cap_slots), vault })
}

/// The entry point of a server: `rt::entry!(main)` with `fn main(start: rt::Start) -> !`.
/// On a host target it is an empty program.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        $crate::bare_entry!(__run_server);

        #[cfg(target_os = "none")]
        fn __run_server() -> ! {
            $crate::start::run($main)
        }
    };
}

/// The entry point of a program without start information (the first process): `fn main() -> !`.
#[macro_export]
macro_rules! bare_entry {
    ($main:path) => {
        #[cfg(target_os = "none")]
        #[allow(unsafe_code)] // The symbol that the linker script names.
        const _: () = {
            extern "C" fn run() -> ! {
                $main()
            }

            // The stack pointer is the stack's top; a function expects it 8 below a multiple of 16.
            #[unsafe(no_mangle)]
            #[unsafe(naked)]
            #[unsafe(link_section = ".text._start")]
            extern "C" fn _start() -> ! {
        core::arch::naked_asm!("xor ebp, ebp", "and rsp, -16", "call {run}", "ud2", run = sym run)
            }
        };

        #[cfg(not(target_os = "none"))]
        fn main() {}
    };
}
