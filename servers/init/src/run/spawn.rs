//! Makes an instance of a server.

use super::machine::{IMAGE_FRAME, Machine};
use super::{Say, window};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use init::image::MAX_SEGMENTS;
use init::layout::page_tables;
use ipc::blob::{Grant, GrantKind, Granted, Segment, Server, StartInfo};
use ipc::image::range_kind;
use ipc::message::Registers;
use ipc::slots::{self, layout};
use rt::calls::time::Policy;
use rt::{
    AddressSpace, Cap, CapTable, Console, Endpoint, Frame, IoPort, Irq, Notification, ObjectType, Protection, Rights,
    SchedContext, Start, Thread, Untyped,
};

const PAGE: u64 = 4096;
const LARGE_PAGE: u64 = 2 << 20;
/// The heap that a server has at least: its start information is decoded on it.
const SMALLEST_HEAP: u64 = 16 << 10;
/// Memory for a thread, its time and the roundings of an instance.
const INSTANCE_SLACK: u64 = 64 << 10;
/// Memory for a slot of a capability table, at most.
const SLOT_BYTES: u64 = 64;
/// `rflags`: interrupts enabled, and the bit that is always set.
const USER_FLAGS: u64 = 0x202;

const OWN_TABLE: Cap<CapTable> = Start::CAP_TABLE;

/// What belongs to a server as long as the system runs, and the slots that its objects have in init's table.
pub struct Place {
    index: usize,
    endpoint: Cap<Endpoint>,
    notification: Cap<Notification>,
    vault: Option<Cap<Frame>>,
    lasting: Cap<Untyped>,
    instance: Cap<Untyped>,
    /// Whether what was made of `lasting` is there.
    furnished: bool,
    /// Nobody serves the endpoint any more; it is gone.
    buried: bool,
    table: Cap<CapTable>,
    untyped: Cap<Untyped>,
    space: Cap<AddressSpace>,
    thread: Cap<Thread>,
    time: Cap<SchedContext>,
    stack: Cap<Frame>,
    heap: Cap<Frame>,
    info: Cap<Frame>,
    buffer: Cap<Frame>,
    segments: u32,
}

/// The heap of a server.
fn heap(server: &Server) -> u64 {
    server.heap.max(SMALLEST_HEAP)
}

fn is_writable(segment: &Segment) -> bool {
    segment.protection & Protection::WRITE.bits() != 0
}

/// Pages of it cannot be shown straight from the image.
fn needs_copy(segment: &Segment) -> bool {
    is_writable(segment) || segment.file_size.next_multiple_of(PAGE) != segment.memory_size
}

impl Place {
    /// Makes what lasts. Servers get their own objects later: a grant may name any of them.
    pub fn new(machine: &mut Machine, index: usize) -> Result<Place, String> {
        let server: &'static Server = &machine.system.servers[index];
        let copies: u64 = server.segments.iter().filter(|s| needs_copy(s)).map(|s| s.memory_size).sum();
        let instance = page_tables(server) + server.stack + heap(server) + copies + INSTANCE_SLACK;
        let lasting = (u64::from(server.cap_slots) * SLOT_BYTES).next_multiple_of(PAGE) + server.untyped + 2 * PAGE;
        let vault = server.vault;
        let memory = &mut machine.memory;
        let segments = memory.slots.take_run(MAX_SEGMENTS as u32).ok_or("init's capability table is full")?;
        Ok(Place {
            index,
            endpoint: memory.make(0)?,
            notification: memory.make(0)?,
            vault: (vault != 0).then(|| memory.make(vault)).transpose()?,
            lasting: memory.make(lasting)?,
            instance: memory.make(instance)?,
            furnished: false,
            buried: false,
            table: Cap::new(memory.slot()?),
            untyped: Cap::new(memory.slot()?),
            space: Cap::new(memory.slot()?),
            thread: Cap::new(memory.slot()?),
            time: Cap::new(memory.slot()?),
            stack: Cap::new(memory.slot()?),
            heap: Cap::new(memory.slot()?),
            info: Cap::new(memory.slot()?),
            buffer: Cap::new(memory.slot()?),
            segments,
        })
    }

    /// Takes back what the instance held; without a vault also what it had made.
    pub fn clear(&mut self) -> Result<(), String> {
        // What maps its memory goes first: else each frame would be looked for in all of it.
        window::hide_notes(self.index)?;
        for slot in [self.thread.slot(), self.space.slot()] {
            OWN_TABLE.revoke(slot).say("revoking its thread and space")?;
            OWN_TABLE.delete(slot).say("deleting its thread and space")?;
        }
        OWN_TABLE.revoke(self.instance.slot()).say("revoking the instance's memory")?;
        if self.vault.is_none() {
            OWN_TABLE.revoke(self.lasting.slot()).say("revoking what it had made")?;
            self.furnished = false;
        }
        Ok(())
    }

    /// Nobody will serve this endpoint again: whoever waits there gets an error.
    pub fn bury(&mut self) -> Result<(), String> {
        self.clear()?;
        self.buried = true;
        OWN_TABLE.revoke(self.endpoint.slot()).say("revoking its endpoint")?;
        OWN_TABLE.delete(self.endpoint.slot()).say("deleting its endpoint")
    }

    /// Whether its policy has left it dead.
    pub fn is_buried(&self) -> bool {
        self.buried
    }

    /// The thread, for its registers.
    pub fn thread(&self) -> Cap<Thread> {
        self.thread
    }

    /// Its stack.
    pub fn stack(&self) -> Cap<Frame> {
        self.stack
    }

    /// Its message buffer.
    pub fn buffer(&self) -> Cap<Frame> {
        self.buffer
    }

    /// Lets the instance run.
    pub fn run(&self) -> Result<(), String> {
        self.thread.resume().say("starting its thread")
    }
}

/// Makes an instance, ready to run. `id` is what its faults are reported under.
pub fn build(
    machine: &mut Machine,
    places: &mut [Place],
    index: usize,
    generation: u64,
    id: u64,
) -> Result<(), String> {
    let server = &machine.system.servers[index];
    furnish(server, &mut places[index])?;
    let mut granted = Vec::new();
    let place = &places[index];
    place
        .instance
        .retype(ObjectType::AddressSpace, page_tables(server), place.space.slot(), 1)
        .say("its address space")?;
    for (number, segment) in server.segments.iter().enumerate() {
        load(machine, place, number as u32, segment)
            .map_err(|reason| format!("program at {:#x}: {reason}", segment.vaddr))?;
    }
    let data = Protection::READ | Protection::WRITE;
    fresh(place, place.stack, layout::STACK_TOP - server.stack, server.stack, data).say("its stack")?;
    fresh(place, place.heap, layout::HEAP, heap(server), data).say("its heap")?;
    fresh(place, place.buffer, layout::MESSAGE_BUFFER, PAGE, data).say("its message buffer")?;
    if let Some(vault) = place.vault {
        place.space.map(vault, 0, layout::VAULT, server.vault / PAGE, data).say("its vault")?;
    }
    for grant in &server.grants {
        granted.push(give(machine, places, index, grant).map_err(|reason| format!("grant {}: {reason}", grant.name))?);
    }
    let info = StartInfo {
        name: server.name.clone(),
        generation,
        args: server.args.clone(),
        grants: granted,
        heap: heap(server),
        vault: server.vault,
        untyped: server.untyped,
        cap_slots: server.cap_slots,
        tsc_khz: machine.tsc_khz,
    };
    inform(place, &info)?;
    thread(machine, server, place, id)
}

/// A server that was left dead gets an endpoint again, and those who may call it get the right to.
pub fn exhume(machine: &mut Machine, places: &mut [Place], index: usize) -> Result<(), String> {
    let endpoint: Cap<Endpoint> = machine.memory.make_at(places[index].endpoint.slot())?;
    let place = &mut places[index];
    place.buried = false;
    if place.furnished {
        place.table.copy(slots::ENDPOINT, endpoint, Rights::READ | Rights::WRITE, 0).say("its endpoint")?;
    }
    for (server, client) in machine.system.servers.iter().zip(places.iter()).filter(|(_, client)| client.furnished) {
        for grant in &server.grants {
            if let GrantKind::Call { server, badge, grant: may_grant } = grant.what
                && server as usize == index
                && client.table.identify(grant.slot).say("looking at a client's table")?.is_none()
            {
                let rights = if may_grant { Rights::WRITE | Rights::GRANT } else { Rights::WRITE };
                client.table.copy(grant.slot, endpoint, rights, badge).say("copying the endpoint")?;
            }
        }
    }
    Ok(())
}

/// Makes what lasts over a death, unless it is there: the table with the server's own objects, and its Untyped.
fn furnish(server: &Server, place: &mut Place) -> Result<(), String> {
    if place.furnished {
        return Ok(());
    }
    place
        .lasting
        .retype(ObjectType::CapTable, server.cap_slots.into(), place.table.slot(), 1)
        .say("its capability table")?;
    let table = place.table;
    table.copy(slots::CAP_TABLE, place.table, Rights::all(), 0).say("its own table")?;
    table.copy(slots::ENDPOINT, place.endpoint, Rights::READ | Rights::WRITE, 0).say("its endpoint")?;
    table.copy(slots::NOTIFICATION, place.notification, Rights::READ | Rights::WRITE, 0).say("its notification")?;
    if server.untyped != 0 {
        place.lasting.retype(ObjectType::Untyped, server.untyped, place.untyped.slot(), 1).say("its Untyped")?;
        table.copy_with_ceiling(slots::UNTYPED, place.untyped, Rights::all(), server.ceiling).say("its Untyped")?;
    }
    place.furnished = true;
    Ok(())
}

/// Makes a frame of the instance's memory and maps all of it.
fn fresh(place: &Place, frame: Cap<Frame>, vaddr: u64, bytes: u64, protection: Protection) -> rt::Result {
    place.instance.retype(ObjectType::Frame, bytes, frame.slot(), 1)?;
    place.space.map(frame, 0, vaddr, bytes / PAGE, protection)
}

/// Loads a piece of the program: straight from the image where nobody writes it, else as a copy.
fn load(machine: &Machine, place: &Place, number: u32, segment: &Segment) -> Result<(), String> {
    let protection = Protection::from_bits_truncate(segment.protection);
    let pages = segment.memory_size / PAGE;
    if !needs_copy(segment) {
        let first = machine.image_page + segment.offset / PAGE;
        return place.space.map(IMAGE_FRAME, first, segment.vaddr, pages, protection).say("mapping the image");
    }
    let frame = Cap::new(place.segments + number);
    place.instance.retype(ObjectType::Frame, segment.memory_size, frame.slot(), 1).say("memory for it")?;
    let start = segment.offset as usize;
    let bytes = machine.image.get(start..start + segment.file_size as usize).ok_or("it lies outside of the image")?;
    window::fill(frame, bytes)?;
    place.space.map(frame, 0, segment.vaddr, pages, protection).say("mapping it")
}

/// Writes the start information and maps it.
fn inform(place: &Place, info: &StartInfo) -> Result<(), String> {
    let encoded = postcard::to_allocvec(info).map_err(|error| format!("encoding its start information: {error}"))?;
    let mut bytes = Vec::with_capacity(encoded.len() + 8);
    bytes.extend_from_slice(&(encoded.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&((info.heap / PAGE) as u32).to_le_bytes());
    bytes.extend_from_slice(&encoded);
    let size = (bytes.len() as u64).next_multiple_of(PAGE);
    place.instance.retype(ObjectType::Frame, size, place.info.slot(), 1).say("its start information")?;
    window::fill(place.info, &bytes)?;
    place.space.map(place.info, 0, layout::START_INFO, size / PAGE, Protection::READ).say("its start information")
}

/// Makes the thread and its time, stopped at the entry point.
fn thread(machine: &Machine, server: &Server, place: &Place, id: u64) -> Result<(), String> {
    place.instance.retype(ObjectType::Thread, 0, place.thread.slot(), 1).say("its thread")?;
    place.instance.retype(ObjectType::SchedContext, 0, place.time.slot(), 1).say("its time")?;
    let thread = place.thread;
    thread
        .configure(place.space, Some(place.table), Some(machine.endpoint), Some((place.buffer, 0)), id)
        .say("configuring its thread")?;
    let registers = Registers { rip: server.entry, rsp: layout::STACK_TOP, rflags: USER_FLAGS, ..Registers::default() };
    thread.write_registers(&registers).say("its registers")?;
    thread.bind_notification(Some(place.notification)).say("binding its notification")?;
    let ticks = |us| rt::time::microseconds(us, machine.tsc_khz);
    let (budget, period) = (ticks(server.budget_us), ticks(server.period_us));
    place.time.configure(server.priority, Policy::Fifo, 0, budget, period).say("its priority and budget")?;
    place.time.bind(thread).say("giving it time")?;
    // What is its own again with each instance. It may look at its thread and time, and shape its address space.
    let table = place.table;
    for slot in [slots::ADDRESS_SPACE, slots::THREAD, slots::SCHED_CONTEXT] {
        // Whatever a former instance may have put there.
        if table.identify(slot).say("looking at its table")?.is_some() {
            table.delete(slot).say("clearing its table")?;
        }
    }
    table.copy(slots::ADDRESS_SPACE, place.space, Rights::all(), 0).say("its own address space")?;
    table.copy(slots::THREAD, thread, Rights::READ, 0).say("its own thread")?;
    table
        .copy_with_ceiling(slots::SCHED_CONTEXT, place.time, Rights::READ, server.ceiling)
        .say("its own time")
        .map(drop)
}

/// Binds the interrupts that a server is granted to its notification. Both last as long as the system.
pub fn wire(machine: &mut Machine, place: &Place, index: usize) -> Result<(), String> {
    for grant in &machine.system.servers[index].grants {
        let GrantKind::Irq { device, vector, bits } = grant.what else { continue };
        let Some(interrupt) = interrupt(machine, device, vector) else { continue };
        let slot = machine.memory.slot()?;
        let badged = OWN_TABLE.copy(slot, place.notification, Rights::WRITE, bits).say("badging its notification")?;
        interrupt.bind(Some(badged)).say(format!("binding interrupt {}", grant.name))?;
    }
    Ok(())
}

/// An interrupt of a device that is there.
fn interrupt(machine: &Machine, device: u32, vector: u16) -> Option<Cap<Irq>> {
    machine.functions[device as usize].as_ref()?.interrupts.get(usize::from(vector)).copied()
}

/// Gives one grant, and says what the server will know of it. A device that is absent leaves the slot empty.
fn give(machine: &mut Machine, places: &[Place], index: usize, grant: &Grant) -> Result<Granted, String> {
    let place = &places[index];
    let mut granted = Granted { name: grant.name.clone(), slot: grant.slot, vaddr: 0, size: 0, physical: 0 };
    // An instance of before may have kept its table: what is there already stays.
    let missing = place.table.identify(grant.slot).say("looking at its table")?.is_none();
    match &grant.what {
        GrantKind::Call { server, badge, grant: may_grant } if missing => {
            let rights = if *may_grant { Rights::WRITE | Rights::GRANT } else { Rights::WRITE };
            place
                .table
                .copy(grant.slot, places[*server as usize].endpoint, rights, *badge)
                .say("copying the endpoint")?;
        }
        GrantKind::Notification { index, bits } if missing => {
            let rights = if *bits == 0 { Rights::READ } else { Rights::WRITE };
            place
                .table
                .copy(grant.slot, machine.notifications[*index as usize], rights, *bits)
                .say("copying the notification")?;
        }
        GrantKind::SignalServer { server, bits } if missing => {
            place
                .table
                .copy(grant.slot, places[*server as usize].notification, Rights::WRITE, *bits)
                .say("copying the notification")?;
        }
        GrantKind::Console { halt } if missing => {
            let rights = if *halt { Rights::WRITE | Rights::CONTROL } else { Rights::WRITE };
            place
                .table
                .copy(slots::CONSOLE, Cap::<Console>::new(slots::CONSOLE), rights, 0)
                .say("copying the console")?;
        }
        GrantKind::Ports { first, count } if missing => {
            let slot = machine.memory.slot()?;
            let ports =
                Cap::<IoPort>::new(slots::boot::IO_PORT).derive(*first, *count, slot).say("deriving the ports")?;
            place.table.take(grant.slot, ports).say("moving the ports")?;
            machine.memory.slots.give(slot);
        }
        GrantKind::Irq { device, vector, .. } if missing => {
            if let Some(interrupt) = interrupt(machine, *device, *vector) {
                place
                    .table
                    .copy(grant.slot, interrupt, Rights::READ | Rights::WRITE, 0)
                    .say("copying the interrupt")?;
            }
        }
        GrantKind::Memory { .. } => give_memory(machine, place, grant, missing, &mut granted)?,
        _ => {}
    }
    Ok(granted)
}

fn give_memory(
    machine: &Machine,
    place: &Place,
    grant: &Grant,
    missing: bool,
    granted: &mut Granted,
) -> Result<(), String> {
    let GrantKind::Memory { region, offset, size, vaddr, protection, executable } = grant.what else { return Ok(()) };
    let system = &machine.system;
    let described = &system.regions[region as usize];
    let physical = described.physical + offset;
    let of_absent_device = described.kind == range_kind::DEVICE
        && system.devices.iter().zip(&machine.functions).any(|(device, function)| {
            function.is_none() && device.bars.iter().any(|(_, bar)| *bar == described.physical)
        });
    if of_absent_device {
        return Ok(());
    }
    let (frame, page) = match machine.regions[region as usize] {
        Some(frame) => (frame, offset / PAGE),
        None => machine.memory.fixed(physical).ok_or("there is no frame for it")?,
    };
    let protection = Protection::from_bits_truncate(protection);
    let mut rights = Rights::READ;
    rights.set(Rights::WRITE, protection.contains(Protection::WRITE));
    rights.set(Rights::EXECUTE, executable || protection.contains(Protection::EXECUTE));
    if missing {
        place.table.copy(grant.slot, frame, rights, 0).say("copying the frame")?;
    }
    let physical = frame.info().say("asking where it is")?.physical + page * PAGE;
    if vaddr != 0 {
        // It stays mapped as a whole: large pages, where they fit, are mapped sooner.
        let is_large = [vaddr, physical, size].iter().all(|value| value.is_multiple_of(LARGE_PAGE));
        let large = if is_large { Protection::LARGE } else { Protection::empty() };
        place.space.map(frame, page, vaddr, size / PAGE, protection | large).say("mapping it")?;
    }
    (granted.vaddr, granted.size, granted.physical) = (vaddr, size, physical);
    Ok(())
}
