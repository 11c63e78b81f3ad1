//! Reads the composed system from the boot image. The image was loaded by somebody else: nothing in it is believed before
//! it is checked, and what is wrong is said in words.

use alloc::format;
use alloc::string::{String, ToString};
use ipc::Protection;
use ipc::blob::{BLOB_VERSION, GrantKind, Server, System};
use ipc::image::{IMAGE_MAGIC, IMAGE_VERSION, ImageHeader, checksum};
use ipc::slots::{self, layout};
use zerocopy::FromBytes;

const PAGE: u64 = 4096;
/// Most servers in a system.
pub const MAX_SERVERS: usize = 64;
/// Most program pieces of a server.
pub const MAX_SEGMENTS: usize = 8;
/// Largest stack, heap, vault or Untyped of a server: keeps sums far from overflow.
const MAX_BYTES: u64 = 1 << 40;

/// The header at the start of these bytes. (There is no heap yet when it is read: the reason is a constant.)
pub fn header(bytes: &[u8]) -> Result<ImageHeader, &'static str> {
    let (header, _) = ImageHeader::read_from_prefix(bytes).map_err(|_| "the image is shorter than its header")?;
    if header.magic != IMAGE_MAGIC {
        return Err("the image header has no magic number");
    }
    if header.version != IMAGE_VERSION {
        return Err("the image has another version than this init reads");
    }
    Ok(header)
}

/// The system that the image describes; `image` starts at the header.
pub fn system(header: &ImageHeader, image: &[u8]) -> Result<System, String> {
    if header.size > image.len() as u64 {
        return Err(format!("the image says that it has {} bytes, but only {} are there", header.size, image.len()));
    }
    let blob = usize::try_from(header.blob_offset)
        .ok()
        .zip(usize::try_from(header.blob_size).ok())
        .and_then(|(offset, size)| image.get(offset..offset.checked_add(size)?))
        .ok_or_else(|| "the blob lies outside of the image".to_string())?;
    if checksum(blob) != header.blob_checksum {
        return Err("the blob is damaged: its checksum differs".to_string());
    }
    // The version comes first in the encoding, so it can be told even if the rest has changed.
    match postcard::take_from_bytes::<u32>(blob) {
        Ok((BLOB_VERSION, _)) => {}
        Ok((version, _)) => {
            return Err(format!("the blob has version {version}, this init reads version {BLOB_VERSION}"));
        }
        Err(_) => return Err("the blob is empty".to_string()),
    }
    let system: System = postcard::from_bytes(blob).map_err(|error| format!("the blob cannot be decoded: {error}"))?;
    check(&system, header.size)?;
    Ok(system)
}

fn check(system: &System, image_size: u64) -> Result<(), String> {
    if system.servers.is_empty() || system.servers.len() > MAX_SERVERS {
        return Err(format!("{} servers; 1 to {MAX_SERVERS} are possible", system.servers.len()));
    }
    for region in &system.regions {
        if region.size == 0
            || !region.size.is_multiple_of(PAGE)
            || !region.physical.is_multiple_of(PAGE)
            || region.physical.checked_add(region.size).is_none_or(|end| end > layout::GUEST_END)
        {
            return Err(format!("region {}: not a range of whole pages", region.name));
        }
    }
    for server in &system.servers {
        check_server(system, server, image_size).map_err(|reason| format!("server {}: {reason}", server.name))?;
    }
    Ok(())
}

fn check_server(system: &System, server: &Server, image_size: u64) -> Result<(), String> {
    let whole = |what: &str, bytes: u64| match bytes.is_multiple_of(PAGE) && bytes <= MAX_BYTES {
        true => Ok(()),
        false => Err(format!("{what} of {bytes:#x} bytes")),
    };
    whole("a stack", server.stack)?;
    whole("a heap", server.heap)?;
    whole("a vault", server.vault)?;
    whole("an Untyped", server.untyped)?;
    if server.stack == 0 || server.stack > layout::STACK_TOP - layout::MESSAGE_BUFFER - 2 * PAGE {
        return Err(format!("a stack of {:#x} bytes", server.stack));
    }
    if server.cap_slots < slots::FIRST_FREE || server.cap_slots > 1 << 20 {
        return Err(format!("{} slots", server.cap_slots));
    }
    if server.segments.is_empty() || server.segments.len() > MAX_SEGMENTS {
        return Err(format!("{} program pieces", server.segments.len()));
    }
    for segment in &server.segments {
        let protection = Protection::from_bits(segment.protection).filter(|p| p.is_legal());
        let in_image = segment.offset.checked_add(segment.file_size).is_some_and(|end| end <= image_size);
        let in_window = segment.vaddr >= layout::PROGRAM
            && segment.vaddr.checked_add(segment.memory_size).is_some_and(|end| end <= layout::START_INFO);
        if protection.is_none()
            || !in_image
            || !in_window
            || !segment.offset.is_multiple_of(PAGE)
            || !segment.vaddr.is_multiple_of(PAGE)
            || segment.memory_size == 0
            || !segment.memory_size.is_multiple_of(PAGE)
            || segment.file_size > segment.memory_size
        {
            return Err(format!("the program piece at {:#x} is malformed", segment.vaddr));
        }
    }
    for grant in &server.grants {
        check_grant(system, server, &grant.what, grant.slot)
            .map_err(|reason| format!("grant {}: {reason}", grant.name))?;
    }
    Ok(())
}

fn check_grant(system: &System, server: &Server, what: &GrantKind, slot: u32) -> Result<(), String> {
    let known = |index: u32, count: usize, kind: &str| match (index as usize) < count {
        true => Ok(()),
        false => Err(format!("there is no {kind} {index}")),
    };
    let free_slot =
        matches!(what, GrantKind::Console { .. }) || (slots::FIRST_GRANT..slots::FIRST_FREE).contains(&slot);
    if !free_slot || slot >= server.cap_slots {
        return Err(format!("slot {slot} is not for grants"));
    }
    match what {
        GrantKind::Call { server, .. } | GrantKind::SignalServer { server, .. } => {
            known(*server, system.servers.len(), "server")
        }
        GrantKind::Notification { index, .. } => known(*index, system.notifications.len(), "notification"),
        GrantKind::Irq { device, vector, .. } => {
            known(*device, system.devices.len(), "device")?;
            known((*vector).into(), system.devices[*device as usize].vectors.into(), "vector")
        }
        GrantKind::Ports { count, first } => match *count != 0 && u32::from(*first) + u32::from(*count) <= 0x1_0000 {
            true => Ok(()),
            false => Err("an empty range of ports, or one beyond the last".to_string()),
        },
        GrantKind::Console { .. } => Ok(()),
        GrantKind::Memory { region, offset, size, vaddr, protection, .. } => {
            known(*region, system.regions.len(), "region")?;
            let region = &system.regions[*region as usize];
            let inside = offset.checked_add(*size).is_some_and(|end| end <= region.size);
            let legal = Protection::from_bits(*protection).is_some_and(|p| p.is_legal());
            let placed = *vaddr == 0
                || (*vaddr >= layout::GRANTS && vaddr.checked_add(*size).is_some_and(|end| end <= layout::GRANTS_END));
            if *size == 0
                || !inside
                || !legal
                || !placed
                || [*offset, *size, *vaddr].iter().any(|n| !n.is_multiple_of(PAGE))
            {
                return Err("not a range of whole pages of the region with a legal protection".to_string());
            }
            Ok(())
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use ipc::blob::{Device, Grant, Region, Restart, Segment};
    use zerocopy::{FromZeros, IntoBytes};

    pub(crate) fn server(name: &str) -> Server {
        Server {
            name: name.to_string(),
            entry: layout::PROGRAM,
            segments: vec![Segment {
                vaddr: layout::PROGRAM,
                offset: 0x2000,
                file_size: 0x800,
                memory_size: 0x1000,
                protection: 5,
            }],
            priority: 1,
            ceiling: 1,
            budget_us: 0,
            period_us: 0,
            stack: 0x4000,
            heap: 0x4000,
            untyped: 0,
            cap_slots: 256,
            vault: 0,
            restart: Restart::Never,
            rebuild_priority: 1,
            args: vec![],
            grants: vec![],
            digest: [0; 32],
        }
    }

    fn composed() -> System {
        System {
            version: BLOB_VERSION,
            name: "test".into(),
            servers: vec![server("a"), server("b")],
            regions: vec![Region { name: "r".into(), physical: 0x10_0000, size: 0x4000, kind: 2 }],
            notifications: vec![],
            devices: vec![Device {
                name: "d".into(),
                bdf: 0x70,
                vendor: 1,
                device: 2,
                bars: vec![],
                vectors: 2,
                msi: false,
            }],
            supervision: None,
        }
    }

    fn image(system: &System) -> (ImageHeader, Vec<u8>) {
        let blob = postcard::to_allocvec(system).unwrap();
        let mut header = ImageHeader::new_zeroed();
        header.magic = IMAGE_MAGIC;
        header.version = IMAGE_VERSION;
        header.size = 0x4000;
        header.blob_offset = 0x1000;
        header.blob_size = blob.len() as u64;
        header.blob_checksum = checksum(&blob);
        let mut image = vec![0; 0x4000];
        image[..size_of::<ImageHeader>()].copy_from_slice(header.as_bytes());
        image[0x1000..][..blob.len()].copy_from_slice(&blob);
        (header, image)
    }

    fn verdict(change: impl FnOnce(&mut System)) -> Result<(), String> {
        let mut composed = composed();
        change(&mut composed);
        let (header, image) = image(&composed);
        system(&header, &image).map(|read| assert_eq!(read, composed))
    }

    fn granted(what: GrantKind) -> Result<(), String> {
        verdict(|system| system.servers[0].grants.push(Grant { name: "g".into(), slot: slots::FIRST_GRANT, what }))
    }

    #[test]
    fn a_sound_image_is_read() {
        verdict(|_| {}).unwrap();
        let (_, image) = image(&composed());
        header(&image).unwrap();
    }

    #[test]
    fn damage_is_named() {
        let (header_in, bytes) = image(&composed());
        let mut broken = bytes.clone();
        broken[0x1003] ^= 1;
        assert!(system(&header_in, &broken).unwrap_err().contains("checksum"));
        assert!(system(&header_in, &bytes[..0x3000]).unwrap_err().contains("only"));
        let far = ImageHeader { blob_offset: u64::MAX, ..header_in };
        assert!(system(&far, &bytes).unwrap_err().contains("outside"));
        broken = bytes.clone();
        broken[8] = 9;
        assert!(header(&broken).unwrap_err().contains("another version"));
        broken[0] = 0;
        assert!(header(&broken).unwrap_err().contains("magic"));
        assert!(header(&bytes[..10]).unwrap_err().contains("shorter"));
        assert!(verdict(|s| s.version = 7).unwrap_err().contains("version 7"));
    }

    #[test]
    fn what_cannot_be_built_is_refused() {
        for (change, words) in [
            ((|s| s.servers.clear()) as fn(&mut System), "0 servers"),
            (|s| s.servers[1].stack = 100, "server b: a stack of 0x64"),
            (|s| s.servers[0].segments[0].protection = 7, "malformed"),
            (|s| s.servers[0].segments[0].offset = u64::MAX - 0xfff, "malformed"),
            (|s| s.servers[0].segments[0].vaddr = 0, "malformed"),
            (|s| s.servers[0].segments[0].file_size = 0x1001, "malformed"),
            (|s| s.servers[0].cap_slots = 3, "3 slots"),
            (|s| s.regions[0].size = 1, "region r"),
        ] {
            let reason = verdict(change).unwrap_err();
            assert!(reason.contains(words), "{reason}");
        }
    }

    #[test]
    fn grants_stay_within_what_exists() {
        let memory = |offset, size, vaddr, protection| GrantKind::Memory {
            region: 0,
            offset,
            size,
            vaddr,
            protection,
            executable: false,
        };
        granted(memory(0x1000, 0x3000, layout::GRANTS, 3)).unwrap();
        granted(memory(0, 0x4000, 0, 1)).unwrap();
        for what in [
            memory(0x1000, 0x4000, 0, 1),
            memory(0, 0x4000, 0x1000, 1),
            memory(u64::MAX - 0xfff, 0x1000, 0, 1),
            memory(0, 0x1000, 0, 7),
            memory(0, 0, 0, 1),
            GrantKind::Call { server: 2, badge: 0, grant: false },
            GrantKind::Irq { device: 0, vector: 2, bits: 1 },
            GrantKind::Irq { device: 1, vector: 0, bits: 1 },
            GrantKind::Notification { index: 0, bits: 1 },
            GrantKind::Ports { first: 0xffff, count: 2 },
        ] {
            assert!(granted(what.clone()).is_err(), "{what:?}");
        }
    }
}
