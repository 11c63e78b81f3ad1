//! Intrusive doubly linked lists: no allocation, removal from anywhere in constant time.
//!
//! A node type can be in several lists at once, by one [`Links`] field each; an [`Adapter`] says which field a list uses.

use crate::memory::Ref;
use core::cell::Cell;
use core::marker::PhantomData;

/// The links of a node in one list. Zeroed memory: in no list.
#[repr(C)]
pub struct Links<T> {
    previous: Cell<Option<Ref<T>>>,
    next: Cell<Option<Ref<T>>>,
}

impl<T> Links<T> {
    /// In no list.
    pub const fn new() -> Self {
        Links { previous: Cell::new(None), next: Cell::new(None) }
    }
}

impl<T> Default for Links<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// Which links a list uses.
pub trait Adapter {
    /// The node type.
    type Node;
    /// The links of this list in a node.
    fn links(node: &Self::Node) -> &Links<Self::Node>;
}

/// A list. Whoever removes a node knows that it is in this list.
#[repr(C)]
pub struct List<A: Adapter> {
    head: Cell<Option<Ref<A::Node>>>,
    tail: Cell<Option<Ref<A::Node>>>,
    adapter: PhantomData<A>,
}

impl<A: Adapter> Default for List<A> {
    fn default() -> Self {
        Self::new()
    }
}

impl<A: Adapter> List<A> {
    /// An empty list.
    pub const fn new() -> Self {
        List { head: Cell::new(None), tail: Cell::new(None), adapter: PhantomData }
    }

    /// The first node.
    pub fn first(&self) -> Option<Ref<A::Node>> {
        self.head.get()
    }

    /// The node after this one.
    pub fn after(&self, node: Ref<A::Node>) -> Option<Ref<A::Node>> {
        A::links(&node).next.get()
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.head.get().is_none()
    }

    fn link(&self, previous: Option<Ref<A::Node>>, node: Ref<A::Node>, next: Option<Ref<A::Node>>) {
        A::links(&node).previous.set(previous);
        A::links(&node).next.set(next);
        match previous {
            Some(p) => A::links(&p).next.set(Some(node)),
            None => self.head.set(Some(node)),
        }
        match next {
            Some(n) => A::links(&n).previous.set(Some(node)),
            None => self.tail.set(Some(node)),
        }
    }

    /// Adds at the end.
    pub fn push_back(&self, node: Ref<A::Node>) {
        self.link(self.tail.get(), node, None);
    }

    /// Adds at the front.
    pub fn push_front(&self, node: Ref<A::Node>) {
        self.link(None, node, self.head.get());
    }

    /// Removes a node of this list.
    pub fn remove(&self, node: Ref<A::Node>) {
        let links = A::links(&node);
        let (previous, next) = (links.previous.take(), links.next.take());
        match previous {
            Some(p) => A::links(&p).next.set(next),
            None => self.head.set(next),
        }
        match next {
            Some(n) => A::links(&n).previous.set(previous),
            None => self.tail.set(previous),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Node {
        key: u32,
        links: Links<Node>,
    }
    struct ByKey;
    impl Adapter for ByKey {
        type Node = Node;
        fn links(node: &Node) -> &Links<Node> {
            &node.links
        }
    }

    fn keys(list: &List<ByKey>) -> Vec<u32> {
        let mut out = Vec::new();
        let mut next = list.first();
        while let Some(node) = next {
            out.push(node.key);
            next = list.after(node);
        }
        out
    }

    #[test]
    fn order_and_removal() {
        let nodes: Vec<Node> = [1, 2, 2, 3, 9].into_iter().map(|key| Node { key, links: Links::new() }).collect();
        let list: List<ByKey> = List::new();
        for node in &nodes {
            list.push_back(Ref::from(node));
        }
        assert_eq!(keys(&list), [1, 2, 2, 3, 9]);
        list.remove(Ref::from(&nodes[2]));
        assert_eq!(keys(&list), [1, 2, 3, 9]);
        list.push_front(Ref::from(&nodes[2]));
        assert_eq!(keys(&list), [2, 1, 2, 3, 9]);
        list.remove(Ref::from(&nodes[2]));
        list.remove(Ref::from(&nodes[4]));
        list.push_back(Ref::from(&nodes[4]));
        assert_eq!(keys(&list), [1, 2, 3, 9]);
        while let Some(first) = list.first() {
            list.remove(first);
        }
        assert!(list.is_empty());
    }
}
