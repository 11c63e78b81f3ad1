//! An application's address space, and the operations that keep its three faces in step: areas (what was asked for), mirror
//! (what is published and used to resolve pointers) and the kernel's mappings (what the processor sees).
//!
//! Rules: published after mapped; unpublished before unmapped; a page goes back only after both.

use super::mirror::Entry;
use super::vma::{Areas, prot};
use super::{Mirror, PAGE, Pages, Pool};
use crate::errno::{Errno, Result};
use crate::machine::Machine;
use alloc::vec::Vec;
use ipc::Protection;

/// The memory of all programs.
pub struct Memory {
    /// Bytes.
    pub pool: Pool,
    /// Allocator.
    pub pages: Pages,
    /// Published page maps.
    pub mirror: Mirror,
}

/// A process's address space.
pub struct Space {
    /// Name of the kernel's address space: the leader's slot.
    pub id: u32,
    /// Root node of the mirror.
    pub root: u32,
    /// What the program asked for.
    pub areas: Areas,
    /// Where the heap starts.
    pub heap_start: u64,
    /// Where it ends (not page aligned).
    pub heap_end: u64,
    /// Below this, mappings without a wish for a place go.
    pub map_top: u64,
    /// Pages of the pool in use.
    pub pages: u64,
}

/// The kernel's view of protection bits; `None` if there is no access.
pub fn protection(bits: u8) -> Option<Protection> {
    if bits & (prot::READ | prot::WRITE | prot::EXEC) == 0 {
        return None;
    }
    let mut protection = Protection::READ;
    if bits & prot::WRITE != 0 {
        protection |= Protection::WRITE;
    }
    if bits & prot::EXEC != 0 {
        protection |= Protection::EXECUTE;
    }
    Some(protection)
}

impl Memory {
    /// A new, empty address space.
    pub fn create(&mut self, machine: &mut dyn Machine, id: u32) -> Result<Space> {
        let root = self.mirror.create().ok_or(Errno::ENOMEM)?;
        if let Err(error) = machine.space_create(id) {
            self.mirror.destroy(root);
            return Err(error);
        }
        Ok(Space { id, root, areas: Areas::default(), heap_start: 0, heap_end: 0, map_top: 0, pages: 0 })
    }

    /// Puts zeroed pages wherever in the range there are none. All or nothing.
    pub fn back(&mut self, machine: &mut dyn Machine, space: &mut Space, start: u64, end: u64, bits: u8) -> Result<()> {
        let Some(protection) = protection(bits) else { return Ok(()) };
        let mut at = start;
        let mut filled = Vec::new();
        while at < end {
            let hole_end = match self.mirror.next(space.root, at, end) {
                Some((address, _)) if address == at => {
                    at += PAGE;
                    continue;
                }
                Some((address, _)) => address,
                None => end,
            };
            if let Err(error) = self.back_hole(machine, space, at, hole_end, protection) {
                for (from, to) in filled {
                    self.unback(machine, space, from, to);
                }
                return Err(error);
            }
            filled.push((at, hole_end));
            at = hole_end;
        }
        Ok(())
    }

    fn back_hole(
        &mut self,
        machine: &mut dyn Machine,
        space: &mut Space,
        start: u64,
        end: u64,
        protection: Protection,
    ) -> Result<()> {
        let needed = (end - start) / PAGE;
        if u64::from(self.pages.free()) < needed {
            self.pages.sweep();
            if u64::from(self.pages.free()) < needed {
                return Err(Errno::ENOMEM);
            }
        }
        let mut at = start;
        while at < end {
            let Some(first) = self.pages.take() else {
                self.unback(machine, space, start, at);
                return Err(Errno::ENOMEM);
            };
            let (mut last, mut next) = (first, None);
            while at + u64::from(last - first + 1) * PAGE < end {
                match self.pages.take() {
                    Some(page) if page == last + 1 => last = page,
                    other => {
                        next = other;
                        break;
                    }
                }
            }
            if let Some(page) = next {
                self.pages.put_back(page);
            }
            let run: Vec<u32> = (first..=last).collect();
            for page in &run {
                self.pool.zero(*page, 0, PAGE as usize);
            }
            if let Err(error) = self.attach(machine, space, at, &run, protection) {
                self.unback(machine, space, start, at);
                return Err(error);
            }
            at += run.len() as u64 * PAGE;
        }
        Ok(())
    }

    /// Maps and publishes consecutive pages of the pool; takes over one reference to each, also on failure.
    fn attach(
        &mut self,
        machine: &mut dyn Machine,
        space: &mut Space,
        at: u64,
        run: &[u32],
        protection: Protection,
    ) -> Result<()> {
        let address = |index: usize| at + index as u64 * PAGE;
        let nodes = (0..run.len()).all(|index| {
            // A leaf node covers 512 pages.
            (index != 0 && !(address(index) / PAGE).is_multiple_of(512))
                || self.mirror.prepare(space.root, address(index))
        });
        let mapped =
            if nodes { machine.map(space.id, run[0], at, run.len() as u64, protection) } else { Err(Errno::ENOMEM) };
        if let Err(error) = mapped {
            machine.unmap(space.id, at, run.len() as u64);
            for page in run {
                self.pages.release(*page);
            }
            return Err(error);
        }
        for (index, page) in run.iter().enumerate() {
            let entry = Entry { page: *page, readable: true, writable: protection.contains(Protection::WRITE) };
            let published = self.mirror.set(space.root, address(index), entry);
            debug_assert!(published, "the nodes were prepared");
        }
        space.pages += run.len() as u64;
        Ok(())
    }

    /// Maps pages that already exist (and are used by others too).
    pub fn attach_shared(
        &mut self,
        machine: &mut dyn Machine,
        space: &mut Space,
        at: u64,
        pages: &[u32],
        bits: u8,
    ) -> Result<()> {
        let protection = protection(bits).ok_or(Errno::EINVAL)?;
        for (index, page) in pages.iter().enumerate() {
            self.pages.share(*page);
            self.attach(machine, space, at + index as u64 * PAGE, &[*page], protection)?;
        }
        Ok(())
    }

    /// Takes all pages of the range away and gives them back. True: Linux may still have some of them mapped in the proxy, and
    /// must be told before other pages appear at their addresses.
    pub fn unback(&mut self, machine: &mut dyn Machine, space: &mut Space, start: u64, end: u64) -> bool {
        let mut held = false;
        let mut at = start;
        while let Some((first, _)) = self.mirror.next(space.root, at, end) {
            let mut pages = Vec::new();
            at = first;
            while at < end
                && let Some(entry) = self.mirror.clear(space.root, at)
            {
                pages.push(entry.page);
                at += PAGE;
            }
            machine.unmap(space.id, first, pages.len() as u64);
            space.pages -= pages.len() as u64;
            for page in pages {
                held |= self.pages.is_held(page);
                self.pages.release(page);
            }
        }
        held
    }

    /// Changes the protection of the range; backs what had no access and no pages.
    pub fn reprotect(
        &mut self,
        machine: &mut dyn Machine,
        space: &mut Space,
        start: u64,
        end: u64,
        bits: u8,
    ) -> Result<()> {
        let new = protection(bits);
        let mut at = start;
        while let Some((first, entry)) = self.mirror.next(space.root, at, end) {
            // A run of pages that are alike: all mapped, or all kept without access. Kept ones must be consecutive in the pool.
            let readable = entry.readable;
            let mut run = Vec::new();
            at = first;
            while at < end
                && let Some(entry) = self.mirror.get(space.root, at)
                && entry.readable == readable
                && (readable || run.last().is_none_or(|last| *last + 1 == entry.page))
            {
                run.push(entry.page);
                at += PAGE;
            }
            let count = run.len() as u64;
            let writable = new.is_some_and(|protection| protection.contains(Protection::WRITE));
            let publish = |mirror: &mut Mirror| {
                for (index, page) in run.iter().enumerate() {
                    let entry = Entry { page: *page, readable: new.is_some(), writable };
                    mirror.set(space.root, first + index as u64 * PAGE, entry);
                }
            };
            match (readable, new) {
                (true, None) => {
                    publish(&mut self.mirror);
                    machine.unmap(space.id, first, count);
                }
                (true, Some(protection)) => {
                    machine.protect(space.id, first, count, protection)?;
                    publish(&mut self.mirror);
                }
                (false, None) => {}
                (false, Some(protection)) => {
                    machine.map(space.id, run[0], first, count, protection)?;
                    publish(&mut self.mirror);
                }
            }
        }
        self.back(machine, space, start, end, bits)
    }

    /// Makes the kernel's mappings of the range what areas and mirror say, whatever was done to them.
    pub fn restore(&self, machine: &mut dyn Machine, space: &Space, start: u64, end: u64) -> Result<()> {
        machine.unmap(space.id, start, (end - start) / PAGE);
        for area in space.areas.within(start, end) {
            let Some(protection) = protection(area.protection) else { continue };
            let (mut at, end) = (area.start, area.end);
            while let Some((first, entry)) = self.mirror.next(space.root, at, end) {
                // A run of consecutive pages.
                let page = |index: u64| self.mirror.get(space.root, first + index * PAGE).map(|entry| entry.page);
                let mut count = 1;
                while first + count * PAGE < end && page(count) == Some(entry.page + count as u32) {
                    count += 1;
                }
                if entry.readable {
                    machine.map(space.id, entry.page, first, count, protection)?;
                }
                at = first + count * PAGE;
            }
        }
        Ok(())
    }

    /// Ends an address space; its threads are gone. Gives the root of its mirror, now empty, that stays until the proxy is gone.
    #[must_use]
    pub fn destroy(&mut self, machine: &mut dyn Machine, space: Space) -> u32 {
        let mut pages = Vec::with_capacity(space.pages as usize);
        let mut at = 0;
        while let Some((address, entry)) = self.mirror.next(space.root, at, u64::MAX) {
            self.mirror.clear(space.root, address);
            pages.push(entry.page);
            at = address + PAGE;
        }
        // The kernel drops all mappings at once with the address space.
        machine.space_destroy(space.id);
        for page in pages {
            self.pages.release(page);
        }
        space.root
    }
}
