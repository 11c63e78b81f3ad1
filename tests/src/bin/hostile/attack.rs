//! What is done with the memory, in short phases of one kind each. After each the header is made whole, so that programs start again and there is
//! something to attack.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::{Duration, Instant};

use ipc::board::order;
use ipc::shadow::{
    LINUX_MAGIC, LinuxHeader, MAX_SLOTS, REQUESTS, RESPONSES, Request, Response, ThreadEntry, VECTOR_DOORBELL, VERSION,
    mirror, response_kind, rt_section,
};
use tests::random::Random;
use zerocopy::IntoBytes;

use crate::memory::Shared;

const HEADER_WORDS: u64 = size_of::<LinuxHeader>() as u64 / 8;
const VECTOR_ORDER: u16 = ipc::board::VECTOR_ORDER;

/// A kind of attack: its name, how many of a hundred phases, and one stroke of it.
type Kind = (&'static str, u64, fn(&mut Attack));
const KINDS: [Kind; 10] = [
    ("header words", 8, Attack::header),
    ("ring indices", 8, Attack::indices),
    ("responses", 10, Attack::responses),
    ("forged responses", 18, Attack::forged),
    ("altered responses", 16, Attack::altered),
    ("held bits", 12, Attack::held),
    ("orders", 4, Attack::orders),
    ("doorbells", 6, Attack::doorbells),
    ("pages of programs", 14, Attack::pages),
    ("states", 4, Attack::states),
];

/// The attacker.
pub struct Attack {
    shared: Shared,
    random: Random,
    /// The response tail as the driver has it.
    tail: u32,
    /// The one written here last.
    written: u32,
    /// Strokes, by kind.
    counts: BTreeMap<&'static str, u64>,
    /// Responses that were seen on the ring.
    seen: Vec<Response>,
}

impl Attack {
    pub fn new(shared: Shared, seed: u64) -> Attack {
        let tail = shared.header().response_tail.load(Acquire);
        let random = Random::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        Attack { shared, random, tail, written: tail, counts: BTreeMap::new(), seen: Vec::new() }
    }

    /// How often what was done.
    pub fn done(&self) -> String {
        let counts: Vec<String> = self.counts.iter().map(|(name, count)| format!("{name} {count}")).collect();
        counts.join(", ")
    }

    /// Strokes of one kind for a while.
    pub fn phase(&mut self) {
        let mut ticket = self.random.below(KINDS.iter().map(|(_, share, _)| share).sum());
        let (name, _, stroke) = KINDS
            .iter()
            .find(|(_, share, _)| {
                let is_it = ticket < *share;
                ticket = ticket.saturating_sub(*share);
                is_it
            })
            .unwrap_or(&KINDS[0]);
        let end = Instant::now() + Duration::from_millis(20 + self.random.below(300));
        while Instant::now() < end {
            self.note_tail();
            stroke(self);
            *self.counts.entry(name).or_default() += 1;
            // Sometimes as fast as it can, sometimes so that the other side keeps up.
            if self.random.below(4) == 0 {
                std::thread::sleep(Duration::from_micros(self.random.below(3000)));
            }
        }
        self.make_whole();
    }

    /// The driver moves its tail when it answers: then it is not what was written here.
    fn note_tail(&mut self) {
        let tail = self.shared.header().response_tail.load(Acquire);
        if tail != self.written {
            (self.tail, self.written) = (tail, tail);
        }
    }

    fn set_tail(&mut self, tail: u32) {
        self.written = tail;
        self.shared.header().response_tail.store(tail, Release);
    }

    fn make_whole(&mut self) {
        let header = self.shared.header();
        header.version.store(VERSION, Relaxed);
        header.magic.store(LINUX_MAGIC, Release);
        header.request_head.store(self.shared.rt_header().request_tail.load(Acquire), Release);
        self.shared.announce();
        self.set_tail(self.tail);
        self.shared.bell(VECTOR_DOORBELL);
        std::thread::sleep(Duration::from_millis(self.random.below(150)));
    }

    /// A number that somebody may not have thought of.
    fn odd(&mut self) -> u64 {
        match self.random.below(8) {
            0 => 0,
            1 => u64::MAX,
            2 => 1 << self.random.below(64),
            3 => (1 << self.random.below(64)) - 1,
            4 => self.random.below(MAX_SLOTS as u64 + 2),
            5 => self.random.below(4096).wrapping_neg(),
            6 => self.random.below(1 << 20),
            _ => self.random.word(),
        }
    }

    fn header(&mut self) {
        let word = self.random.below(HEADER_WORDS) as usize;
        let value = self.odd();
        self.shared.own[word].store(value, Relaxed);
        self.shared.bell(VECTOR_DOORBELL);
    }

    /// Far ahead, far behind, and just over the edge.
    fn indices(&mut self) {
        let header = self.shared.header();
        let edge =
            [0, 1, REQUESTS as u32, REQUESTS as u32 + 1, RESPONSES as u32 - 1, u32::MAX][self.random.below(6) as usize];
        let by = if self.random.below(3) == 0 { self.odd() as u32 } else { edge };
        if self.random.below(2) == 0 {
            header.request_head.store(header.request_head.load(Relaxed).wrapping_add(by), Release);
        } else {
            self.set_tail(self.tail.wrapping_add(by));
        }
        self.shared.bell(VECTOR_DOORBELL);
    }

    /// Garbage on the ring.
    fn responses(&mut self) {
        let count = 1 + self.random.below(RESPONSES as u64) as u32;
        for index in 0..count {
            for word in self.shared.response(self.written.wrapping_add(index)) {
                let value = self.odd();
                word.store(value, Relaxed);
            }
        }
        self.publish(count);
    }

    fn publish(&mut self, count: u32) {
        self.set_tail(self.written.wrapping_add(count));
        self.shared.bell(VECTOR_DOORBELL);
    }

    fn put(&mut self, index: u32, response: &Response) {
        for (word, bytes) in self.shared.response(index).iter().zip(response.as_bytes().chunks_exact(8)) {
            word.store(u64::from_ne_bytes(bytes.try_into().unwrap_or_default()), Relaxed);
        }
    }

    /// One of the last requests: what is under way, or was.
    fn a_request(&mut self) -> Request {
        let tail = self.shared.rt_header().request_tail.load(Acquire);
        let index = tail.wrapping_sub(1 + self.random.below(16) as u32) as usize % REQUESTS;
        let mut request = Request::default();
        let start = rt_section::REQUESTS + index * size_of::<Request>();
        for (at, bytes) in request.as_mut_bytes().chunks_exact_mut(8).enumerate() {
            bytes.copy_from_slice(&self.shared.theirs_at(start + 8 * at).to_ne_bytes());
        }
        request
    }

    /// An answer to somebody else's request, or news of a slot that is there.
    fn a_forgery(&mut self) -> Response {
        if self.random.below(3) == 0 && !self.seen.is_empty() {
            return self.seen[self.random.below(self.seen.len() as u64) as usize];
        }
        let request = self.a_request();
        let kind = match self.random.below(8) {
            0 => response_kind::START,
            1 => response_kind::SIGNAL,
            2 => response_kind::GONE,
            3 => self.odd() as u32,
            _ => response_kind::RETURN,
        };
        let mut response = Response {
            id: if kind == response_kind::RETURN { request.id } else { 0 },
            kind,
            slot: request.slot,
            generation: request.generation,
            pid: self.odd() as u32,
            value: self.odd() as i64,
            policy: self.odd() as u16,
            priority: self.odd() as u16,
            code: self.odd() as i32,
            new_slot: self.random.below(MAX_SLOTS as u64) as u32,
            new_generation: self.odd() as u32,
            reserved: [0; 2],
        };
        // Almost right.
        match self.random.below(8) {
            0 => response.slot = self.odd() as u32,
            1 => response.generation = response.generation.wrapping_add(1),
            2 => response.id ^= 1 << self.random.below(64),
            _ => {}
        }
        response
    }

    fn forged(&mut self) {
        let count = 1 + self.random.below(4) as u32;
        for offset in 0..count {
            let forgery = self.a_forgery();
            self.put(self.written.wrapping_add(offset), &forgery);
        }
        self.publish(count);
    }

    /// Changes what the driver has answered, before, while or after it is read.
    fn altered(&mut self) {
        let index = self.tail.wrapping_add(self.random.below(4) as u32).wrapping_sub(2);
        let mut response = Response::default();
        for (bytes, word) in response.as_mut_bytes().chunks_exact_mut(8).zip(self.shared.response(index)) {
            bytes.copy_from_slice(&word.load(Relaxed).to_ne_bytes());
        }
        if self.seen.len() < 4096 && response.kind != 0 {
            self.seen.push(response);
        }
        let word = self.random.below(8) as usize;
        let value = self.odd();
        self.shared.response(index)[word].store(value, Relaxed);
    }

    /// Pages that are held by nobody, and pages that are not held although they are.
    fn held(&mut self) {
        let words = self.shared.held();
        for _ in 0..64 {
            let word = &words[self.random.below(words.len() as u64) as usize];
            match self.random.below(3) {
                0 => word.store(0, Relaxed),
                1 => word.store(u64::MAX, Relaxed),
                _ => word.store(self.random.word(), Relaxed),
            }
        }
    }

    /// Orders that make no sense, and some that do: those that root may give, of the servers that serve Linux.
    fn orders(&mut self) {
        let page = self.shared.orders();
        let verb =
            [0, order::KILL, order::RESTART, order::CRASH + 1, self.odd() as u32 | 8][self.random.below(5) as usize];
        let server = [0, 1, 64, self.odd() as u32 | 64, ipc::board::INIT][self.random.below(5) as usize];
        let sequence = self.odd() as u32;
        page[0].store(u64::from(verb) << 32 | u64::from(sequence), Relaxed);
        page[1].store(self.odd() << 32 | u64::from(server), Relaxed);
        for word in &page[2..] {
            let value = self.random.word();
            word.store(value, Relaxed);
        }
        self.shared.bell(VECTOR_ORDER);
        std::thread::sleep(Duration::from_millis(self.random.below(200)));
    }

    fn doorbells(&mut self) {
        for _ in 0..64 {
            let word =
                if self.random.below(2) == 0 { self.odd() as u32 } else { 1 << 16 | self.random.below(4) as u32 };
            self.shared.ring(word);
        }
    }

    /// Writes into pages of a program that runs.
    fn pages(&mut self) {
        let slot = self.random.below(MAX_SLOTS as u64) as usize;
        let entry = rt_section::THREADS + slot * size_of::<ThreadEntry>();
        let root = self.shared.theirs_at(entry + 8) >> 32;
        let Some(page) = self.a_page(root) else { return };
        let words = self.shared.pool.chunks_exact(512).nth(page as usize).unwrap_or_default();
        for _ in 0..8 {
            let Some(word) = words.get(self.random.below(512) as usize) else { return };
            let value = self.odd();
            word.store(value, Relaxed);
        }
    }

    /// Some page that the mirror shows from this root on.
    fn a_page(&mut self, root: u64) -> Option<u64> {
        let mut node = root;
        for level in (0..4).rev() {
            let entries = self.shared.mirror(node)?;
            let present: Vec<u64> =
                entries.iter().map(|entry| entry.load(Relaxed)).filter(|entry| entry & mirror::PRESENT != 0).collect();
            if present.is_empty() {
                return None;
            }
            let entry = present[self.random.below(present.len() as u64) as usize];
            node = entry >> mirror::INDEX_SHIFT;
            if level == 0 {
                return Some(node);
            }
        }
        None
    }

    /// Linux goes and comes.
    fn states(&mut self) {
        let state = if self.random.below(2) == 0 { self.odd() as u32 } else { self.random.below(5) as u32 };
        self.shared.show(state);
        std::thread::sleep(Duration::from_millis(self.random.below(20)));
    }
}
