//! Who gets which memory: private RAM by size, shared and device memory by address.

use super::Say;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use init::layout::{Piece, padding};
use ipc::Error;
use ipc::image::range_kind;
use ipc::slots::boot;
use rt::calls::Object;
use rt::{Cap, Frame, ObjectType, Slots, Untyped};

/// All memory that init holds, and its free slots.
pub struct Memory {
    untyped: Vec<Cap<Untyped>>,
    fixed: Vec<(Piece, Cap<Frame>)>,
    /// Free slots of init's table.
    pub slots: Slots,
}

impl Memory {
    /// What the kernel left.
    pub fn new() -> Memory {
        let untyped = (boot::FIRST_UNTYPED..boot::FIRST_FREE)
            .map(Cap::new)
            .take_while(|untyped: &Cap<Untyped>| untyped.info().is_ok())
            .collect();
        Memory { untyped, fixed: Vec::new(), slots: Slots::new(boot::FIRST_FREE, boot::TABLE_SLOTS) }
    }

    /// A slot.
    pub fn slot(&mut self) -> Result<u32, String> {
        self.slots.take().ok_or_else(|| "init's capability table is full".into())
    }

    /// Makes an object of private RAM.
    pub fn make<T: Object>(&mut self, size: u64) -> Result<Cap<T>, String> {
        let slot = self.slot()?;
        for untyped in &self.untyped {
            if untyped.info().is_ok_and(|info| info.kind == 0) {
                match untyped.make(size, slot) {
                    Err(Error::OutOfMemory) => continue,
                    other => return other.say(format!("making a {:?} of {size:#x} bytes", T::TYPE)),
                }
            }
        }
        Err(format!("private memory does not suffice for a {:?} of {size:#x} bytes", T::TYPE))
    }

    /// Makes an object that needs no size, in a slot with a fixed meaning.
    pub fn make_at<T: Object>(&mut self, slot: u32) -> Result<Cap<T>, String> {
        let mut private = self.untyped.iter().filter(|untyped| untyped.info().is_ok_and(|info| info.kind == 0));
        private
            .find_map(|untyped| untyped.make(0, slot).ok())
            .ok_or_else(|| format!("private memory does not suffice for a {:?}", T::TYPE))
    }

    /// Bytes of private RAM that are left.
    pub fn free(&self) -> u64 {
        let left = |untyped: &Cap<Untyped>| {
            untyped.info().ok().filter(|info| info.kind == 0).map_or(0, |info| info.bytes - info.used)
        };
        self.untyped.iter().map(left).sum()
    }

    /// Makes the frames of pieces at fixed addresses; they come in ascending order.
    pub fn make_fixed(&mut self, pieces: Vec<Piece>) -> Result<(), String> {
        for piece in pieces {
            let frame = self.fixed_frame(&piece)?;
            self.fixed.push((piece, frame));
        }
        Ok(())
    }

    fn fixed_frame(&mut self, piece: &Piece) -> Result<Cap<Frame>, String> {
        let wanted = match piece.kind {
            range_kind::SHARED => 1,
            range_kind::DEVICE => 2,
            kind => return Err(format!("memory at {:#x} has the unknown kind {kind}", piece.physical)),
        };
        let found = self.untyped.iter().find_map(|untyped| {
            let info = untyped.info().ok().filter(|info| info.kind == wanted)?;
            Some((*untyped, padding(info.physical, info.bytes, info.used, piece)?))
        });
        let (untyped, skip) =
            found.ok_or_else(|| format!("the cell has no memory of its kind at {:#x}", piece.physical))?;
        if skip != 0 {
            let slot = self.slot()?;
            untyped
                .retype(ObjectType::Frame, skip, slot, 1)
                .say(format!("skipping {skip:#x} bytes before {:#x}", piece.physical))?;
        }
        let slot = self.slot()?;
        untyped.make(piece.size, slot).say(format!("the frame at {:#x}", piece.physical))
    }

    /// The frame of a piece at a fixed address, and the page in it where the address lies.
    pub fn fixed(&self, physical: u64) -> Option<(Cap<Frame>, u64)> {
        let inside = |piece: &Piece| (piece.physical..piece.physical + piece.size).contains(&physical);
        let (piece, frame) = self.fixed.iter().find(|(piece, _)| inside(piece))?;
        Some((*frame, (physical - piece.physical) / 4096))
    }
}
