//! Intrusive priority queues: the smallest key first, no allocation, any node removed at any time, and every operation in a bounded
//! number of steps however many nodes there are.
//!
//! A binary tree that is a heap by key and a trie by address: a node at depth d lies where the lowest d bits of its address (without
//! those that alignment makes zero) lead to. Addresses are different and physical memory is finite, so no path is longer than some
//! thirty nodes, whatever keys users choose, and nothing has to be balanced. Neighbours in memory part at once.

use crate::memory::Ref;
use arrayvec::ArrayVec;
use core::cell::Cell;
use core::marker::PhantomData;

/// Nodes that a search looks at.
pub const MOST: usize = 8;

/// The links of a node in one heap. Zeroed memory: in no heap.
#[repr(C)]
pub struct Links<T> {
    key: Cell<u64>,
    parent: Cell<Option<Ref<T>>>,
    children: [Cell<Option<Ref<T>>>; 2],
}

impl<T> Links<T> {
    /// In no heap.
    pub const fn new() -> Self {
        Links { key: Cell::new(0), parent: Cell::new(None), children: [const { Cell::new(None) }; 2] }
    }
}

impl<T> Default for Links<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// Which links a heap uses.
pub trait Adapter {
    /// The node type.
    type Node;
    /// The links of this heap in a node.
    fn links(node: &Self::Node) -> &Links<Self::Node>;
}

/// A heap. Whoever removes a node knows that it is in this heap.
#[repr(C)]
pub struct Heap<A: Adapter> {
    root: Cell<Option<Ref<A::Node>>>,
    adapter: PhantomData<A>,
}

/// A place in the tree: below a node, on one side; or, without a node, the root.
type Place<T> = (Option<Ref<T>>, usize);

impl<A: Adapter> Heap<A> {
    /// An empty heap.
    pub const fn new() -> Self {
        Heap { root: Cell::new(None), adapter: PhantomData }
    }

    /// The node with the smallest key.
    #[inline(always)]
    pub fn first(&self) -> Option<Ref<A::Node>> {
        self.root.get()
    }

    /// Whether nothing is in it.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.root.get().is_none()
    }

    fn at(&self, (parent, side): Place<A::Node>) -> Option<Ref<A::Node>> {
        match parent {
            Some(parent) => A::links(&parent).children[side & 1].get(),
            None => self.root.get(),
        }
    }

    fn put(&self, (parent, side): Place<A::Node>, node: Option<Ref<A::Node>>) {
        match parent {
            Some(parent) => A::links(&parent).children[side & 1].set(node),
            None => self.root.set(node),
        }
        if let Some(node) = node {
            A::links(&node).parent.set(parent);
        }
    }

    /// Adds a node. Among equal keys the order is any.
    pub fn insert(&self, node: Ref<A::Node>, key: u64) {
        A::links(&node).key.set(key);
        let mut node = node;
        let mut place = (None, 0);
        let mut depth = align_of::<A::Node>().trailing_zeros();
        let leave = |node: Ref<A::Node>| A::links(&node).children.each_ref().map(|child| child.replace(None));
        leave(node);
        while let Some(there) = self.at(place) {
            let mut above = there;
            if A::links(&node).key.get() < A::links(&there).key.get() {
                // Takes its place, with what is below; that one goes further down.
                let children = leave(there);
                self.put(place, Some(node));
                for (side, child) in children.into_iter().enumerate() {
                    self.put((Some(node), side), child);
                }
                (above, node) = (node, there);
            }
            place = (Some(above), (node.address() >> depth) as usize & 1);
            depth += 1;
        }
        self.put(place, Some(node));
    }

    /// Adds a node to an empty heap.
    #[inline(always)]
    pub fn insert_only(&self, node: Ref<A::Node>, key: u64) {
        let links = A::links(&node);
        links.key.set(key);
        links.parent.set(None);
        links.children[0].set(None);
        links.children[1].set(None);
        self.root.set(Some(node));
    }

    /// Removes the first node, which is known. Quick where two are left at most.
    #[inline(always)]
    pub fn remove_first(&self, node: Ref<A::Node>) {
        let [one, other] = A::links(&node).children.each_ref().map(Cell::get);
        let leaf = |node: Ref<A::Node>| A::links(&node).children.iter().all(|child| child.get().is_none());
        match (one, other) {
            (None, None) => self.root.set(None),
            (Some(last), None) | (None, Some(last)) if leaf(last) => {
                A::links(&last).parent.set(None);
                self.root.set(Some(last));
            }
            _ => self.remove(node),
        }
    }

    /// Removes a node.
    pub fn remove(&self, node: Ref<A::Node>) {
        let parent = A::links(&node).parent.take();
        let side = parent.is_some_and(|parent| A::links(&parent).children[1].get() == Some(node));
        let mut place = (parent, usize::from(side));
        let mut children = A::links(&node).children.each_ref().map(|child| child.replace(None));
        // The place stays and what was below it moves up, one node a level: the one with the smaller key.
        loop {
            let key = |side: usize| children[side].map_or(u64::MAX, |child| A::links(&child).key.get());
            let side = usize::from(children[0].is_none() || (children[1].is_some() && key(1) < key(0)));
            let Some(up) = children[side] else { break };
            let below = A::links(&up).children.each_ref().map(|child| child.replace(None));
            self.put(place, Some(up));
            self.put((Some(up), 1 - side), children[1 - side]);
            place = (Some(up), side);
            children = below;
        }
        self.put(place, None);
    }

    /// The first node, if it is the only one.
    #[inline(always)]
    pub fn only(&self) -> Option<Ref<A::Node>> {
        self.root.get().filter(|node| A::links(node).children.iter().all(|child| child.get().is_none()))
    }

    /// Removes the only node.
    #[inline(always)]
    pub fn remove_only(&self) {
        self.root.set(None);
    }

    /// The smallest value of any node, where none is below the node's key. `None`: more nodes than [`MOST`] would have to be looked at.
    pub fn smallest(&self, value: impl Fn(&A::Node) -> u64) -> Option<u64> {
        let mut smallest = u64::MAX;
        let mut left = ArrayVec::<Ref<A::Node>, MOST>::new();
        left.extend(self.first());
        for _ in 0..MOST {
            let Some(node) = left.pop() else { break };
            if A::links(&node).key.get() < smallest {
                smallest = smallest.min(value(&node));
                for child in A::links(&node).children.iter().filter_map(Cell::get) {
                    left.try_push(child).ok()?;
                }
            }
        }
        left.is_empty().then_some(smallest)
    }

    /// Calls `visit` for every node, after checking that it is where it belongs. Takes as long as the heap is large.
    #[cfg(any(test, feature = "invariants"))]
    pub fn check(&self, visit: &mut dyn FnMut(Ref<A::Node>)) {
        self.check_below((None, 0), align_of::<A::Node>().trailing_zeros(), visit);
    }

    #[cfg(any(test, feature = "invariants"))]
    fn check_below(&self, place: Place<A::Node>, depth: u32, visit: &mut dyn FnMut(Ref<A::Node>)) {
        let Some(node) = self.at(place) else { return };
        assert!(A::links(&node).parent.get() == place.0, "a node does not know what is above it");
        if let Some(parent) = place.0 {
            assert!((node.address() >> (depth - 1)) as usize & 1 == place.1, "a node is not where its address leads");
            assert!(A::links(&parent).key.get() <= A::links(&node).key.get(), "a key is smaller than the one above");
        }
        visit(node);
        for side in 0..2 {
            self.check_below((Some(node), side), depth + 1, visit);
        }
    }
}

impl<A: Adapter> Default for Heap<A> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    struct Node {
        links: Links<Node>,
    }
    struct ByKey;
    impl Adapter for ByKey {
        type Node = Node;
        fn links(node: &Node) -> &Links<Node> {
            &node.links
        }
    }

    fn size(heap: &Heap<ByKey>) -> usize {
        let mut count = 0;
        heap.check(&mut |_| count += 1);
        count
    }

    #[test]
    fn the_smallest_value_is_found_or_too_many_would_have_to_be_looked_at() {
        let nodes: Vec<Node> = (0..MOST).map(|_| Node { links: Links::new() }).collect();
        let heap: Heap<ByKey> = Heap::new();
        assert_eq!(heap.smallest(|_| 0), Some(u64::MAX));
        for (key, node) in nodes.iter().enumerate() {
            heap.insert(Ref::from(node), key as u64);
            let keys = 0..=key as u64;
            assert_eq!(heap.smallest(|node| node.links.key.get() + 3), Some(3));
            // Only the last one has a value.
            let value = |node: &Node| if node.links.key.get() == key as u64 { 100 } else { u64::MAX };
            assert_eq!(heap.smallest(value), Some(100), "of {keys:?}");
            // The first one's is large.
            let value = |node: &Node| if node.links.key.get() == 0 { 9 } else { node.links.key.get() + 1 };
            assert_eq!(heap.smallest(value), Some(if key == 0 { 9 } else { 2 }));
        }
        let more = Node { links: Links::new() };
        heap.insert(Ref::from(&more), 50);
        assert_eq!(heap.smallest(|_| u64::MAX), None);
        assert_eq!(heap.smallest(|node| node.links.key.get()), Some(0));
    }

    #[test]
    fn the_smallest_is_first_whatever_comes_and_goes() {
        let count = if cfg!(miri) { 16 } else { 1000 };
        let nodes: Vec<Node> = (0..count).map(|_| Node { links: Links::new() }).collect();
        let heap: Heap<ByKey> = Heap::new();
        let mut random = Random(88_172_645_463_325_252);
        let mut inside = std::collections::BTreeMap::new();
        for step in 0..count * 20 {
            let number = random.next();
            let index = (number >> 32) as usize % count;
            match inside.remove(&index) {
                Some(_) => heap.remove(Ref::from(&nodes[index])),
                None => {
                    // Few different keys: many are equal.
                    let key = number % 50;
                    inside.insert(index, key);
                    heap.insert(Ref::from(&nodes[index]), key);
                }
            }
            assert_eq!(heap.first().map(|node| node.links.key.get()), inside.values().min().copied());
            if step % count == 0 {
                assert_eq!(size(&heap), inside.len());
            }
        }
        let mut last = 0;
        while let Some(first) = heap.first() {
            assert!(first.links.key.get() >= last);
            last = first.links.key.get();
            if heap.only().is_some() && last % 2 == 0 { heap.remove_only() } else { heap.remove_first(first) }
        }
        assert!(heap.is_empty());
        heap.insert_only(Ref::from(&nodes[0]), 5);
        heap.insert(Ref::from(&nodes[1]), 4);
        assert!(heap.first() == Some(Ref::from(&nodes[1])) && size(&heap) == 2);
    }

    #[test]
    fn no_path_is_longer_than_addresses_differ() {
        // Keys in the worst order: each new one goes on top.
        let nodes: Vec<Node> = (0..256).map(|_| Node { links: Links::new() }).collect();
        let heap: Heap<ByKey> = Heap::new();
        for (index, node) in nodes.iter().enumerate() {
            heap.insert(Ref::from(node), 1000 - index as u64);
        }
        let depth = |node: Ref<Node>| core::iter::successors(Some(node), |node| node.links.parent.get()).count();
        let mut deepest = 0;
        heap.check(&mut |node| deepest = deepest.max(depth(node)));
        // 256 nodes of 32 bytes, side by side: their addresses differ in 13 bits at most, that is 11 above the alignment.
        assert!(deepest <= 12, "{deepest}");
    }
}
