//! The lease: while a server keeps a caller in a Reply, it may copy to and from that caller's memory, in bounded steps.

use crate::memory::{PAGE_SIZE, Page, Ref};
use crate::object::{AddressSpace, Thread};
use ipc::Error;

/// Most bytes of one copy.
pub const MAX_BYTES: u64 = 4096;

/// Copies bytes from `from_address` in one space to `to_address` in another one, up to the first page that is not mapped
/// accordingly. Says how many went.
pub fn copy(
    from: &AddressSpace,
    from_address: u64,
    to: &AddressSpace,
    to_address: u64,
    bytes: u64,
) -> Result<u64, Error> {
    if bytes > MAX_BYTES {
        return Err(Error::InvalidArgument);
    }
    let mut done = 0;
    while done < bytes {
        let (Some(source), Some(target)) = (from_address.checked_add(done), to_address.checked_add(done)) else {
            break;
        };
        let (Some(source_page), Some(target_page)) = (from.readable(source), to.writable(target)) else { break };
        let (source_offset, target_offset) = (source % PAGE_SIZE, target % PAGE_SIZE);
        let step = (bytes - done).min(PAGE_SIZE - source_offset).min(PAGE_SIZE - target_offset);
        Page::copy(source_page, source_offset, target_page, target_offset, step);
        done += step;
    }
    Ok(done)
}

/// The address spaces of the caller that a Reply keeps, and of the server.
pub fn spaces(caller: Option<Ref<Thread>>, server: &Thread) -> Result<(Ref<AddressSpace>, Ref<AddressSpace>), Error> {
    let caller = caller.and_then(|thread| thread.space()).ok_or(Error::NotFound)?;
    let own = server.space().ok_or(Error::NotFound)?;
    Ok((caller, own))
}
