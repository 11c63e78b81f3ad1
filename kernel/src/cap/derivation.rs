//! The derivation tree: which capability was made from which. Every operation takes constant time.
//!
//! Siblings form a doubly linked list; the first one's `previous` and the last one's `next` lead to the parent (marked as such), so a
//! node's children can be handed to its parent without touching each of them.
//!
//! Rule: all capabilities to one object are neighbours in the tree (each is a child or a sibling of another one), because copies
//! start as children, and the children of a removed node take its place. So the last one is recognised by its neighbours alone.

#![allow(unsafe_code)] // Links are tagged addresses of slots.

use super::slot::Slot;
use crate::memory::Ref;

/// A sibling, the parent, or nobody: an address with the lowest bit set for the parent.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Link(u64);

/// A link, seen through.
enum Neighbour {
    None,
    Sibling(Ref<Slot>),
    Parent(Ref<Slot>),
}

impl Link {
    /// Nobody.
    pub const NONE: Link = Link(0);

    fn sibling(slot: Ref<Slot>) -> Link {
        Link(slot.address())
    }

    fn parent(slot: Ref<Slot>) -> Link {
        Link(slot.address() | 1)
    }

    fn get(self) -> Neighbour {
        // SAFETY: links are only made from references, and a slot is unlinked before it goes.
        match unsafe { Ref::at(self.0 & !1) } {
            None => Neighbour::None,
            Some(slot) if self.0 & 1 != 0 => Neighbour::Parent(slot),
            Some(slot) => Neighbour::Sibling(slot),
        }
    }
}

/// Makes `child`, that is in no tree, the first child of `parent`.
pub fn insert_child(parent: Ref<Slot>, child: Ref<Slot>) {
    child.previous.set(Link::parent(parent));
    match parent.first_child.get() {
        Some(first) => {
            child.next.set(Link::sibling(first));
            first.previous.set(Link::sibling(child));
        }
        None => {
            child.next.set(Link::parent(parent));
            parent.last_child.set(Some(child));
        }
    }
    parent.first_child.set(Some(child));
}

/// The first child.
pub fn first_child(slot: Ref<Slot>) -> Option<Ref<Slot>> {
    slot.first_child.get()
}

/// Whether anything is derived from it.
pub fn has_children(slot: &Slot) -> bool {
    slot.first_child.get().is_some()
}

/// Sets what comes after `previous` (a sibling, or the parent whose first child changes).
fn join_after(previous: Link, next: Link, first: Option<Ref<Slot>>) {
    match previous.get() {
        Neighbour::Sibling(p) => p.next.set(next),
        Neighbour::Parent(p) => p.first_child.set(first),
        Neighbour::None => {}
    }
}

/// Sets what comes before `next` (a sibling, or the parent whose last child changes).
fn join_before(next: Link, previous: Link, last: Option<Ref<Slot>>) {
    match next.get() {
        Neighbour::Sibling(n) => n.previous.set(previous),
        Neighbour::Parent(p) => p.last_child.set(last),
        Neighbour::None => {}
    }
}

fn sibling_of(link: Link) -> Option<Ref<Slot>> {
    match link.get() {
        Neighbour::Sibling(s) => Some(s),
        _ => None,
    }
}

/// Takes `slot` out of the tree; its children take its place.
pub fn remove(slot: Ref<Slot>) {
    let (previous, next) = (slot.previous.replace(Link::NONE), slot.next.replace(Link::NONE));
    match (slot.first_child.take(), slot.last_child.take()) {
        (Some(first), Some(last)) => {
            first.previous.set(previous);
            last.next.set(next);
            join_after(previous, Link::sibling(first), Some(first));
            join_before(next, Link::sibling(last), Some(last));
        }
        _ => {
            join_after(previous, next, sibling_of(next));
            join_before(next, previous, sibling_of(previous));
        }
    }
}

/// Puts `new`, that is in no tree, in the place of `old`, which leaves it.
pub fn replace(old: Ref<Slot>, new: Ref<Slot>) {
    let (previous, next) = (old.previous.replace(Link::NONE), old.next.replace(Link::NONE));
    let (first, last) = (old.first_child.take(), old.last_child.take());
    new.previous.set(previous);
    new.next.set(next);
    new.first_child.set(first);
    new.last_child.set(last);
    join_after(previous, Link::sibling(new), Some(new));
    join_before(next, Link::sibling(new), Some(new));
    if let Some(first) = first {
        first.previous.set(Link::parent(new));
    }
    if let Some(last) = last {
        last.next.set(Link::parent(new));
    }
}

/// Whether nothing is above it.
#[cfg(any(test, feature = "invariants"))]
pub fn is_root(slot: Ref<Slot>) -> bool {
    slot.previous.get() == Link::NONE && slot.next.get() == Link::NONE
}

/// Whether no capability to the same object comes before it in the tree.
#[cfg(any(test, feature = "invariants"))]
pub fn is_first(slot: Ref<Slot>) -> bool {
    match slot.previous.get().get() {
        Neighbour::None => true,
        // What is below a sibling comes before it, too: the last of that has to be another object.
        Neighbour::Sibling(before) => !last_below(before).same_object(&slot),
        Neighbour::Parent(parent) => !parent.same_object(&slot),
    }
}

#[cfg(any(test, feature = "invariants"))]
fn last_below(mut slot: Ref<Slot>) -> Ref<Slot> {
    while let Some(last) = slot.last_child.get() {
        slot = last;
    }
    slot
}

/// Of what is below `root`, the one that comes after `slot` (`root` itself: the first one); children come after their parent.
pub fn next_below(root: Ref<Slot>, slot: Ref<Slot>) -> Option<Ref<Slot>> {
    if let Some(child) = slot.first_child.get() {
        return Some(child);
    }
    let mut slot = slot;
    while slot != root {
        match slot.next.get().get() {
            Neighbour::None => return None,
            Neighbour::Sibling(next) => return Some(next),
            Neighbour::Parent(parent) => slot = parent,
        }
    }
    None
}

/// Calls `visit` for each child, after checking the links between them.
#[cfg(any(test, feature = "invariants"))]
pub fn check_children(slot: Ref<Slot>, visit: &mut dyn FnMut(Ref<Slot>)) {
    let mut before = Link::parent(slot);
    let mut next = slot.first_child.get();
    let mut last = None;
    while let Some(child) = next {
        assert!(child.previous.get() == before, "a capability does not know what is before it");
        assert!(!child.is_empty(), "an empty slot is in the tree");
        visit(child);
        before = Link::sibling(child);
        last = Some(child);
        next = sibling_of(child.next.get());
        assert!(next.is_some() || child.next.get() == Link::parent(slot), "the last child does not know its parent");
    }
    assert!(slot.last_child.get() == last, "the last child is another one");
}

/// Whether no other capability names the same object.
pub fn is_last(slot: Ref<Slot>) -> bool {
    let differs = |link: Link| match link.get() {
        Neighbour::None => true,
        Neighbour::Sibling(s) | Neighbour::Parent(s) => !s.same_object(&slot),
    };
    slot.first_child.get().is_none() && differs(slot.previous.get()) && differs(slot.next.get())
}

#[cfg(test)]
mod tests {
    use super::super::slot::Cap;
    use super::*;
    use ipc::ObjectType;

    fn slots(n: usize) -> Vec<Slot> {
        (0..n).map(|_| Slot::new()).collect()
    }

    fn children(slot: &Slot) -> Vec<u64> {
        let mut out = Vec::new();
        let mut next = first_child(Ref::from(slot));
        let mut last = None;
        while let Some(s) = next {
            out.push(s.extra());
            last = Some(s);
            next = sibling_of(s.next.get());
        }
        assert!(slot.last_child.get() == last);
        out
    }

    fn filled(n: usize) -> Vec<Slot> {
        let slots = slots(n);
        for (i, slot) in slots.iter().enumerate() {
            slot.fill(&Cap::new(ObjectType::Endpoint, 64, i as u64));
        }
        slots
    }

    #[test]
    fn children_of_a_removed_node_take_its_place() {
        let s = filled(7);
        let r = |i: usize| Ref::from(&s[i]);
        insert_child(r(0), r(1));
        insert_child(r(0), r(2));
        insert_child(r(0), r(3));
        insert_child(r(2), r(4));
        insert_child(r(2), r(5));
        assert_eq!(children(&s[0]), [3, 2, 1]);
        remove(r(2));
        assert_eq!(children(&s[0]), [3, 5, 4, 1]);
        remove(r(3));
        remove(r(1));
        assert_eq!(children(&s[0]), [5, 4]);
        replace(r(4), r(6));
        assert_eq!(children(&s[0]), [5, 6]);
        assert!(!is_last(r(6)));
        remove(r(0));
        assert!(!is_last(r(5)) && !is_last(r(6)));
        remove(r(5));
        assert!(is_last(r(6)));
    }

    #[test]
    fn replace_keeps_children() {
        let s = filled(5);
        let r = |i: usize| Ref::from(&s[i]);
        insert_child(r(0), r(1));
        insert_child(r(1), r(2));
        insert_child(r(1), r(3));
        replace(r(1), r(4));
        assert_eq!(children(&s[0]), [4]);
        assert_eq!(children(&s[4]), [3, 2]);
        remove(r(4));
        assert_eq!(children(&s[0]), [3, 2]);
    }
}
