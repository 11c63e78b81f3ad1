//! What each call does to the state, and which error it gives.

use super::space::{self, Mapping, Space};
use super::state::{Cap, Name, Place, State};
use ipc::{Call, Error, ObjectType, Rights};

/// Results in register order; or an error, with the count of what was done for calls that stop halfway.
pub type Answer = Result<Vec<u64>, (Error, Option<u64>)>;

const PAGE: u64 = 4096;

/// Bytes and alignment of an object.
fn footprint(kind: ObjectType, size: u64) -> Result<(u64, u64), Error> {
    use ObjectType::*;
    let whole_pages =
        |bytes: u64| if bytes == 0 || !bytes.is_multiple_of(PAGE) { Err(Error::InvalidArgument) } else { Ok(bytes) };
    match (kind, size) {
        (Untyped | Frame, size) => match size % PAGE {
            0 => Ok((whole_pages(size)?, PAGE)),
            order @ 12..=30 => Ok((whole_pages(size - order)?, 1 << order)),
            _ => Err(Error::InvalidArgument),
        },
        (AddressSpace, size) => Ok((whole_pages(size)? + PAGE, PAGE)),
        (CapTable, 2..=0x10_0000) => Ok((size * 64, 64)),
        (Thread, 0) => Ok((PAGE, PAGE)),
        (SchedContext, 0) => Ok((128, 64)),
        (Endpoint | Reply | Notification, 0) => Ok((64, 64)),
        _ => Err(Error::InvalidArgument),
    }
}

fn retype(s: &mut State, source: Place, [kind, size, first, count]: [u64; 4]) -> Result<Vec<u64>, Error> {
    let kind = ObjectType::from_raw(kind).ok_or(Error::InvalidArgument)?;
    let (bytes, align) = footprint(kind, size)?;
    if !(1..=16).contains(&count) {
        return Err(Error::InvalidArgument);
    }
    let mut targets = Vec::new();
    for index in 0..count {
        let target = s.own(first.checked_add(index).ok_or(Error::InvalidArgument)?)?;
        if s.caps.contains_key(&target) {
            return Err(Error::SlotOccupied);
        }
        targets.push(target);
    }
    let Cap { name: base, size: room, .. } = s.caps[&source];
    let start = (base + s.used(source)).next_multiple_of(align);
    let stride = bytes.next_multiple_of(align);
    if start + stride * count > base + room {
        return Err(Error::OutOfMemory);
    }
    for (target, name) in targets.into_iter().zip((start..).step_by(stride as usize)) {
        match kind {
            ObjectType::CapTable => drop(s.tables.insert(name, size)),
            ObjectType::AddressSpace => {
                drop(s.spaces.insert(name, Space { memory: size / PAGE, ..Space::default() }));
            }
            _ => {}
        }
        let size = if matches!(kind, ObjectType::Untyped | ObjectType::Frame) { bytes } else { 0 };
        let (parent, ceiling) = (Some(source), s.caps[&source].ceiling);
        s.caps.insert(target, Cap { kind, rights: Rights::all(), badge: 0, name, size, used: 0, parent, ceiling });
    }
    if let Some(source) = s.caps.get_mut(&source) {
        source.used = start + stride * count - base;
    }
    Ok(Vec::new())
}

fn configure(s: &mut State, thread: Name, [space, table, fault, buffer, page]: [u64; 5]) -> Result<Vec<u64>, Error> {
    let optional = |index: u64| if index == 0 { Ok(None) } else { s.held(index).map(Some) };
    let sources = [Some(s.held(space)?), optional(table)?, optional(fault)?, optional(buffer)?];
    if thread == s.thread {
        return Err(Error::Busy);
    }
    let wanted = [
        (ObjectType::AddressSpace, Rights::empty()),
        (ObjectType::CapTable, Rights::empty()),
        (ObjectType::Endpoint, Rights::WRITE),
        (ObjectType::Frame, Rights::READ | Rights::WRITE),
    ];
    for (source, (kind, rights)) in sources.iter().zip(wanted) {
        if let Some((_, cap)) = source {
            if cap.kind != kind {
                return Err(Error::WrongType);
            }
            if !cap.rights.contains(rights) {
                return Err(Error::MissingRights);
            }
            if kind == ObjectType::Frame && page >= cap.size / PAGE {
                return Err(Error::InvalidArgument);
            }
        }
    }
    let sources = sources.map(|source| source.map(|(place, _)| place));
    s.delete((0..4).map(|index| Place::Thread(thread, index)));
    for (index, source) in sources.into_iter().enumerate() {
        if let Some(source) = source {
            s.copy(source, Place::Thread(thread, index), Rights::all(), 0)?;
        }
    }
    Ok(Vec::new())
}

fn irq_derive(s: &mut State, source: Place, [kind, pin, _, target]: [u64; 4]) -> Result<Vec<u64>, Error> {
    let pin = match kind {
        0 => None,
        1 if pin <= 255 => Some(pin),
        _ => return Err(Error::InvalidArgument),
    };
    let target = s.own(target)?;
    if s.caps[&source].name != 0 {
        return Err(Error::InvalidArgument);
    }
    if s.caps.contains_key(&target) {
        return Err(Error::SlotOccupied);
    }
    if pin.is_some_and(|pin| pin >= 24) {
        return Err(Error::InvalidArgument);
    }
    if pin.is_some() && s.irqs.values().any(|(_, used)| *used == pin) {
        return Err(Error::Busy);
    }
    let vector = (0x30..0x30 + 96).find(|vector| !s.irqs.contains_key(vector)).ok_or(Error::OutOfMemory)?;
    // Where the kernel keeps it is its own matter: the driver fills that in.
    s.irqs.insert(vector, (vector, pin));
    let cap = Cap {
        kind: ObjectType::Irq,
        rights: Rights::all(),
        badge: 0,
        name: vector,
        size: 0,
        used: 0,
        parent: Some(source),
        ceiling: u8::MAX,
    };
    s.caps.insert(target, cap);
    Ok(vec![vector])
}

/// A call by the caller's thread.
pub fn call(s: &mut State, number: Call, slot: u64, args: [u64; 6]) -> Answer {
    let info = ipc::calls::CALLS.iter().find(|info| info.call == number);
    let (kind, rights) = info.and_then(|info| Some((info.object?, info.rights))).expect("a call on an object");
    let plain = |error| (error, None);
    let (place, cap) = s.typed(slot, kind, rights).map_err(plain)?;
    let cap = cap.clone();
    let [a, b, c, d, e, _] = args;
    match number {
        Call::Map | Call::Unmap | Call::Protect | Call::TakeDirty => return mapping(s, number, cap.name, args),
        _ => {}
    }
    let there = |s: &State, index: u64| {
        let inside = index != 0 && index < s.tables[&cap.name];
        if inside { Ok(Place::Table(cap.name, index)) } else { Err(Error::InvalidArgument) }
    };
    let result = (|| match number {
        Call::Retype => retype(s, place, [a, b, c, d]),
        Call::UntypedInfo => Ok(vec![cap.name, cap.size, s.used(place), 0]),
        Call::FrameInfo => Ok(vec![cap.name, cap.size, 0]),
        Call::CapCopy => {
            let (target, source) = (there(s, a)?, s.held(b)?.0);
            let mask = u8::try_from(c).map_or(Rights::all(), Rights::from_bits_truncate);
            s.copy(source, target, mask, d).map(|()| Vec::new())
        }
        Call::CapMove => {
            let source = s.held(b)?.0;
            s.move_to(source, there(s, a)?).map(|()| Vec::new())
        }
        Call::CapDelete => {
            s.delete([there(s, a)?]);
            Ok(Vec::new())
        }
        Call::CapRevoke => {
            s.revoke(there(s, a)?);
            Ok(Vec::new())
        }
        Call::CapIdentify => Ok(match s.caps.get(&there(s, a)?) {
            Some(cap) => {
                let time = matches!(cap.kind, ObjectType::Untyped | ObjectType::SchedContext);
                vec![cap.kind as u64, cap.rights.bits().into(), if time { cap.ceiling.into() } else { cap.badge }]
            }
            None => vec![0, 0, 0],
        }),
        Call::BindRoute => {
            if a >= 7 {
                return Err(Error::InvalidArgument);
            }
            let source = s.typed(b, ObjectType::Endpoint, Rights::WRITE)?.0;
            s.delete([Place::Route(cap.name, a as usize)]);
            s.copy(source, Place::Route(cap.name, a as usize), Rights::all(), 0).map(|()| Vec::new())
        }
        Call::Extend => {
            let (source, memory) = s.typed(a, ObjectType::Untyped, Rights::CONTROL)?;
            let bytes = memory.size;
            let free = [0, 1].map(|index| Place::Extension(cap.name, index));
            let target = free.into_iter().find(|place| !s.caps.contains_key(place)).ok_or(Error::OutOfMemory)?;
            let used = s.used(source).next_multiple_of(PAGE);
            s.copy(source, target, Rights::all(), 0)?;
            if let Some(space) = s.spaces.get_mut(&cap.name) {
                space.more += (bytes - used) / PAGE;
            }
            Ok(Vec::new())
        }
        Call::ThreadConfigure => configure(s, cap.name, [a, b, c, d, e]),
        Call::ThreadBindNotification => {
            if a == 0 {
                s.bound.remove(&cap.name);
                return Ok(Vec::new());
            }
            let notification = s.typed(a, ObjectType::Notification, Rights::READ)?.1.name;
            if s.bound.contains_key(&cap.name) || s.bound.values().any(|bound| *bound == notification) {
                return Err(Error::Busy);
            }
            s.bound.insert(cap.name, notification);
            Ok(Vec::new())
        }
        Call::SchedConfigure => match a {
            256.. => Err(Error::InvalidArgument),
            priority if priority > cap.ceiling.into() => Err(Error::MissingRights),
            _ => Ok(Vec::new()),
        },
        Call::SchedBind => {
            let thread = s.typed(a, ObjectType::Thread, Rights::CONTROL)?.1.name;
            if s.time_of.contains_key(&thread) || s.time_of.values().any(|time| *time == cap.name) {
                return Err(Error::Busy);
            }
            s.time_of.insert(thread, cap.name);
            Ok(Vec::new())
        }
        Call::IrqDerive => irq_derive(s, place, [a, b, c, d]),
        Call::IrqBind => {
            let source = if a == 0 { None } else { Some(s.typed(a, ObjectType::Notification, Rights::WRITE)?.0) };
            if cap.name == 0 {
                return Err(Error::InvalidArgument);
            }
            let target = Place::Irq(cap.name);
            match source {
                None => s.delete([target]),
                Some(_) if s.caps.contains_key(&target) => return Err(Error::Busy),
                Some(source) => s.copy(source, target, Rights::all(), 0)?,
            }
            Ok(Vec::new())
        }
        Call::PortDerive => {
            let target = s.own(c)?;
            let end = a.checked_add(b).ok_or(Error::InvalidArgument)?;
            if b == 0 || a < cap.name || end > cap.name + cap.size {
                return Err(Error::InvalidArgument);
            }
            if s.caps.contains_key(&target) {
                return Err(Error::SlotOccupied);
            }
            s.caps.insert(target, Cap { name: a, size: b, parent: Some(place), ..cap.clone() });
            Ok(Vec::new())
        }
        other => panic!("{other:?} is not in the model"),
    })();
    result.map_err(plain)
}

fn mapping(s: &mut State, number: Call, space: Name, [a, b, c, d, e, _]: [u64; 6]) -> Answer {
    let stopped = |(count, result): (u64, Result<(), Error>)| match result {
        Ok(()) => Ok(vec![count]),
        Err(error) => Err((error, Some(count))),
    };
    if number == Call::Map {
        let (_, frame) = s.held(a).map_err(|error| (error, None))?;
        if frame.kind != ObjectType::Frame {
            return Err((Error::WrongType, None));
        }
        let (name, rights) = (frame.name, frame.rights);
        let checked = space::range(c, d).and_then(|()| {
            if b.checked_add(d).is_none_or(|end| end > frame.size / PAGE) {
                Err(Error::InvalidArgument)
            } else if !rights.contains(Rights::READ) {
                Err(Error::MissingRights)
            } else {
                space::check(e, rights)
            }
        });
        let protection = checked.map_err(|error| (error, Some(0)))?;
        let first = Mapping { physical: name + b * PAGE, frame: name, protection, rights, dirty: false };
        return stopped(s.spaces.get_mut(&space).expect("it lives").map(c, d, first));
    }
    let space = s.spaces.get_mut(&space).expect("it lives");
    if number == Call::TakeDirty {
        let (done, words, result) = space.take_dirty(a, b);
        // The address stays in the register between the two results.
        return stopped((done, result)).map(|done| [done, vec![a], words.to_vec()].concat());
    }
    stopped(if number == Call::Unmap { space.unmap(a, b) } else { space.protect(a, b, c) })
}
