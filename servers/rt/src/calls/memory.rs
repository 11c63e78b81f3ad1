//! Address spaces and frames.

use super::{AddressSpace, Cap, Endpoint, Frame, Result, Untyped};
use ipc::{Call, Error, Protection};

/// Where a frame lies.
#[derive(Clone, Copy, Debug)]
pub struct FrameInfo {
    /// Guest-physical address.
    pub physical: u64,
    /// Bytes.
    pub bytes: u64,
    /// 0 normal, 1 shared, 2 device.
    pub kind: u64,
}

impl Cap<AddressSpace> {
    /// Maps `pages` pages of the frame from `first_page` on.
    pub fn map(self, frame: Cap<Frame>, first_page: u64, address: u64, pages: u64, protection: Protection) -> Result {
        steps(pages, |done, count| {
            self.partial(
                Call::Map,
                [frame.slot.into(), first_page + done, address + done * 4096, count, protection.bits().into()],
            )
        })
    }

    /// Unmaps what is mapped in the range.
    pub fn unmap(self, address: u64, pages: u64) -> Result {
        steps(pages, |done, count| self.partial(Call::Unmap, [address + done * 4096, count]))
    }

    /// Changes the protection of what is mapped in the range.
    pub fn protect(self, address: u64, pages: u64, protection: Protection) -> Result {
        steps(pages, |done, count| {
            self.partial(Call::Protect, [address + done * 4096, count, protection.bits().into()])
        })
    }

    /// Calls `dirty` with the address of each page of the range that has been written since this was last asked, or since it was mapped.
    /// Pages that are not mapped are passed over; a large page is an error.
    pub fn take_dirty(self, address: u64, pages: u64, mut dirty: impl FnMut(u64)) -> Result {
        steps(pages, |done, count| {
            let first = address + done * 4096;
            let (done, words) = super::invoke_partial_words(Call::TakeDirty, self.slot, [first, count])?;
            for (index, mut word) in (0..).step_by(64).zip(words) {
                while word != 0 {
                    dirty(first + (index + u64::from(word.trailing_zeros())) * 4096);
                    word &= word - 1;
                }
            }
            Ok(done)
        })
    }

    /// One step: the pages done, whether that was all or not.
    fn partial<const N: usize>(self, call: Call, arguments: [u64; N]) -> Result<u64> {
        super::invoke_partial(call, self.slot, arguments)
    }

    /// Foreign calls with these numbers go to that route (7: ENOSYS).
    pub fn set_route(self, first: u64, last: u64, route: u64) -> Result {
        self.invoke(Call::SetRoute, [first, last, route]).map(drop)
    }

    /// Foreign calls of that route go to the endpoint.
    pub fn bind_route(self, route: u64, endpoint: Cap<Endpoint>) -> Result {
        self.invoke(Call::BindRoute, [route, endpoint.slot.into()]).map(drop)
    }

    /// Gives the rest of an Untyped as page-table memory.
    pub fn extend(self, untyped: Cap<Untyped>) -> Result {
        self.invoke(Call::Extend, [untyped.slot.into()]).map(drop)
    }
}

impl Cap<Frame> {
    /// Where and how much.
    pub fn info(self) -> Result<FrameInfo> {
        let [physical, bytes, kind, _] = self.invoke(Call::FrameInfo, [])?;
        Ok(FrameInfo { physical, bytes, kind })
    }
}

/// Repeats a call on a range of pages until the kernel has done all of them.
fn steps(pages: u64, mut step: impl FnMut(u64, u64) -> Result<u64>) -> Result {
    // An interrupted step may have made nothing but a table, and a page needs no more than three of those.
    const TABLES: u32 = 3;
    let (mut done, mut idle) = (0, 0);
    while done < pages {
        match step(done, pages - done)? {
            // Still nothing done and no error: not what the contract says; do not loop for ever on it.
            0 if idle == TABLES => return Err(Error::InvalidArgument),
            0 => idle += 1,
            count => (done, idle) = (done + count.min(pages - done), 0),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partial_work_is_continued_where_it_stopped() {
        let mut asked = Vec::new();
        let result = steps(150, |done, count| {
            asked.push((done, count));
            Ok(count.min(64))
        });
        assert_eq!(result, Ok(()));
        assert_eq!(asked, [(0, 150), (64, 86), (128, 22)]);
    }

    #[test]
    fn no_progress_is_an_error_after_the_tables() {
        let mut idle = 0;
        let tables_first = |_, _| {
            idle += 1;
            Ok(u64::from(idle > 3))
        };
        assert_eq!(steps(1, tables_first), Ok(()));
        assert_eq!(steps(1, |_, _| Ok(0)), Err(Error::InvalidArgument));
        assert_eq!(steps(2, |_, _| Err(Error::Busy)), Err(Error::Busy));
        assert_eq!(steps(0, |_, _| Err(Error::Busy)), Ok(()));
    }
}
