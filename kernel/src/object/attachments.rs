//! Which Frames are mapped in an address space, and how many pages of each.

use crate::memory::PAGE_SIZE;
use core::cell::Cell;
use ipc::Error;

/// Frames that can be mapped at once in one space.
pub const COUNT: usize = 96;

/// Pages of one Frame mapped in a space. Not in use while none is.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Attachment {
    base: u64,
    pages: u32,
    mapped: u32,
}

impl Attachment {
    /// End of the Frame.
    pub fn end(self) -> u64 {
        self.base + u64::from(self.pages) * PAGE_SIZE
    }

    fn covers(self, physical: u64) -> bool {
        self.mapped != 0 && physical >= self.base && physical < self.end()
    }
}

/// The attachments of a space.
#[repr(C)]
pub struct Attachments {
    cells: [Cell<Attachment>; COUNT],
    last: Cell<usize>,
}

/// Pages were mapped, or unmapped.
pub fn count(cell: &Cell<Attachment>, pages: i32) {
    let mut attachment = cell.get();
    attachment.mapped = attachment.mapped.wrapping_add_signed(pages);
    cell.set(attachment);
}

impl Attachments {
    /// Nothing is mapped any more.
    pub fn clear(&self) {
        for cell in &self.cells {
            cell.set(Attachment { base: 0, pages: 0, mapped: 0 });
        }
    }

    /// The attachment of the Frame that a page belongs to. Neighbouring pages mostly belong to the same one.
    pub fn find(&self, physical: u64) -> Option<&Cell<Attachment>> {
        let last = self.cells.get(self.last.get()).filter(|cell| cell.get().covers(physical));
        if last.is_some() {
            return last;
        }
        let index = self.cells.iter().position(|cell| cell.get().covers(physical))?;
        self.last.set(index);
        self.cells.get(index)
    }

    /// The attachment of a Frame, made if it is not there. It is only kept once a page is counted. Each is looked at once, since
    /// interrupts are off; backwards, so that the first free one is taken, which is found soonest.
    pub fn attach(&self, base: u64, pages: u64) -> Result<&Cell<Attachment>, Error> {
        let mut free = None;
        for cell in self.cells.iter().rev() {
            let attachment = cell.get();
            if attachment.mapped == 0 {
                free = Some(cell);
            } else if attachment.base == base {
                return Ok(cell);
            }
        }
        let cell = free.ok_or(Error::OutOfMemory)?;
        let pages = u32::try_from(pages).map_err(|_| Error::InvalidArgument)?;
        cell.set(Attachment { base, pages, mapped: 0 });
        Ok(cell)
    }

    /// Pages of all Frames that are mapped.
    #[cfg(any(test, feature = "invariants"))]
    pub fn mapped_pages(&self) -> u64 {
        self.cells.iter().map(|cell| u64::from(cell.get().mapped)).sum()
    }

    /// The attachment of the Frame with this base, if any of it is mapped.
    pub fn of(&self, base: u64) -> Option<&Cell<Attachment>> {
        self.cells.iter().find(|cell| cell.get().mapped != 0 && cell.get().base == base)
    }
}
