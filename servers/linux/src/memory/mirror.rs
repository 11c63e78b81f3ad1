//! The published page map: a four-level tree per process in the section that only the real-time side writes.
//!
//! The driver reads it to resolve faults of the proxy, and this server reads it to resolve pointers of the program: there is
//! one page map, not two. Bits 0 and 1 and the index are the contract; bits 2–11 are for this server alone. Nodes stay linked, empty or not, until the proxy is
//! gone: a driver in the middle of a walk never meets a node with another meaning.
//!
//! It is not on this server's heap: what a turn changes in it is noted in the journal, to be undone if the turn does not come to its end. (What a node
//! is emptied of when it is taken need not be: it was free.)

use super::pool::Words;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use ipc::shadow::mirror::{INDEX_SHIFT, PRESENT, WRITABLE};
use rt::journal;

const ENTRIES: usize = 512;
/// (Own bit) a page belongs here, though it may not be accessible (PROT_NONE).
const BACKED: u64 = 1 << 2;

/// A last-level entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Page in the pool.
    pub page: u32,
    /// The program may read it.
    pub readable: bool,
    /// The program may write it.
    pub writable: bool,
}

impl Entry {
    fn encode(self) -> u64 {
        let mut raw = BACKED | (u64::from(self.page) << INDEX_SHIFT);
        if self.readable {
            raw |= PRESENT;
            if self.writable {
                raw |= WRITABLE;
            }
        }
        raw
    }

    fn decode(raw: u64) -> Option<Entry> {
        (raw & BACKED != 0).then_some(Entry {
            page: (raw >> INDEX_SHIFT) as u32,
            readable: raw & PRESENT != 0,
            writable: raw & WRITABLE != 0,
        })
    }
}

/// All trees.
pub struct Mirror {
    words: Words,
    nodes: usize,
    free: Vec<u32>,
}

fn index(address: u64, level: u32) -> usize {
    (address >> (12 + 9 * level)) as usize % ENTRIES
}

impl Mirror {
    /// Takes over the memory: as many nodes as fit.
    pub fn new(words: Words) -> Mirror {
        let nodes = words.len() / ENTRIES;
        Mirror { words, nodes, free: (0..nodes as u32).rev().collect() }
    }

    /// Nodes in use.
    pub fn nodes_used(&self) -> usize {
        self.nodes - self.free.len()
    }

    fn cell(&self, node: u32, index: usize) -> &core::sync::atomic::AtomicU64 {
        &self.words[node as usize * ENTRIES + index]
    }

    fn allocate(&mut self) -> Option<u32> {
        let node = self.free.pop()?;
        for index in 0..ENTRIES {
            self.cell(node, index).store(0, Ordering::Relaxed);
        }
        Some(node)
    }

    /// A new, empty tree.
    pub fn create(&mut self) -> Option<u32> {
        self.allocate()
    }

    fn child(&self, node: u32, index: usize) -> Option<u32> {
        let raw = self.cell(node, index).load(Ordering::Relaxed);
        (raw & PRESENT != 0).then_some((raw >> INDEX_SHIFT) as u32)
    }

    /// The entry of an address.
    pub fn get(&self, root: u32, address: u64) -> Option<Entry> {
        let mut node = root;
        for level in (1..4).rev() {
            node = self.child(node, index(address, level))?;
        }
        Entry::decode(self.cell(node, index(address, 0)).load(Ordering::Relaxed))
    }

    /// The first entry at or after `from` and before `end`, with its address.
    pub fn next(&self, root: u32, from: u64, end: u64) -> Option<(u64, Entry)> {
        // Beyond the reach of four levels the same entries would come again and again.
        let end = end.min(1 << 48);
        let mut address = from & !0xfff;
        'search: while address < end {
            let mut node = root;
            for level in (1..4).rev() {
                match self.child(node, index(address, level)) {
                    Some(child) => node = child,
                    None => {
                        let span = 1u64 << (12 + 9 * level);
                        address = (address & !(span - 1)).checked_add(span)?;
                        continue 'search;
                    }
                }
            }
            if let Some(entry) = Entry::decode(self.cell(node, index(address, 0)).load(Ordering::Relaxed)) {
                return Some((address, entry));
            }
            address += 0x1000;
        }
        None
    }

    /// Makes the nodes on the way to `address`, so that `set` cannot fail. False: none left.
    pub fn prepare(&mut self, root: u32, address: u64) -> bool {
        let mut node = root;
        for level in (1..4).rev() {
            let slot = index(address, level);
            node = match self.child(node, slot) {
                Some(child) => child,
                None => {
                    let Some(child) = self.allocate() else { return false };
                    // Released after the child was zeroed: the driver never sees an old node's entries here.
                    let link = PRESENT | (u64::from(child) << INDEX_SHIFT);
                    journal::store(self.cell(node, slot), link, Ordering::Release);
                    child
                }
            };
        }
        true
    }

    /// Sets the entry of an address. False: no nodes left.
    pub fn set(&mut self, root: u32, address: u64, entry: Entry) -> bool {
        if !self.prepare(root, address) {
            return false;
        }
        let mut node = root;
        for level in (1..4).rev() {
            match self.child(node, index(address, level)) {
                Some(child) => node = child,
                None => return false,
            }
        }
        journal::store(self.cell(node, index(address, 0)), entry.encode(), Ordering::Release);
        true
    }

    /// Removes the entry of an address and gives it.
    pub fn clear(&mut self, root: u32, address: u64) -> Option<Entry> {
        let mut node = root;
        for level in (1..4).rev() {
            node = self.child(node, index(address, level))?;
        }
        let slot = index(address, 0);
        let entry = Entry::decode(self.cell(node, slot).load(Ordering::Relaxed))?;
        journal::store(self.cell(node, slot), 0, Ordering::SeqCst);
        Some(entry)
    }

    /// Frees all nodes of a tree. The proxy that read it is gone.
    pub fn destroy(&mut self, root: u32) {
        self.free_below(root, 3);
    }

    fn free_below(&mut self, node: u32, level: u32) {
        if level > 0 {
            for index in 0..ENTRIES {
                if let Some(child) = self.child(node, index) {
                    self.free_below(child, level - 1);
                }
            }
        }
        self.free.push(node);
    }
}

#[cfg(test)]
mod tests {
    use super::super::pool::testing::words;
    use super::*;

    fn entry(page: u32) -> Entry {
        Entry { page, readable: true, writable: page.is_multiple_of(2) }
    }

    #[test]
    fn set_get_clear_and_all_nodes_come_back() {
        let mut mirror = Mirror::new(words(512 * 32));
        let root = mirror.create().unwrap();
        let places = [0x1_0000, 0x1_1000, 0x20_0000, 0x4000_0000, 0x3fff_ffff_f000];
        for (page, address) in places.iter().enumerate() {
            assert!(mirror.set(root, *address, entry(page as u32)));
        }
        for (page, address) in places.iter().enumerate() {
            assert_eq!(mirror.get(root, *address + 0xfff), Some(entry(page as u32)));
        }
        assert_eq!(mirror.get(root, 0x1_2000), None);
        assert_eq!(mirror.next(root, 0x1_2000, u64::MAX), Some((0x20_0000, entry(2))));
        assert_eq!(mirror.next(root, 0x20_1000, 0x4000_0000), None);
        assert_eq!(mirror.next(root, 0x20_1000, 0x4000_0001), Some((0x4000_0000, entry(3))));
        for (page, address) in places.iter().enumerate() {
            assert_eq!(mirror.clear(root, *address), Some(entry(page as u32)));
            assert_eq!(mirror.clear(root, *address), None);
        }
        mirror.destroy(root);
        assert_eq!(mirror.nodes_used(), 0);
    }

    #[test]
    fn inaccessible_pages_are_not_published() {
        let mut mirror = Mirror::new(words(512 * 8));
        let root = mirror.create().unwrap();
        assert!(mirror.set(root, 0x1000, Entry { page: 5, readable: false, writable: true }));
        assert_eq!(mirror.get(root, 0x1000), Some(Entry { page: 5, readable: false, writable: false }));
    }

    #[test]
    fn running_out_of_nodes_is_told() {
        let mut mirror = Mirror::new(words(512 * 3));
        let root = mirror.create().unwrap();
        assert!(!mirror.set(root, 0x1000, entry(1)));
        mirror.destroy(root);
        assert_eq!(mirror.nodes_used(), 0);
    }
}
