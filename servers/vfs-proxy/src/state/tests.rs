//! The bookkeeping against a simulated Linux: a well-behaved one, a dead one, and a hostile one.

mod hostile;

use super::*;
use crate::book::VERSION;
use crate::client;
use ipc::protocol::vfs;
use ipc::protocol::vfs::{EVENT_GONE, EVENT_RESET, EVENT_START};
use ipc::shadow::{RESPONSES, Response, response_kind, special, thread_identity};
use zerocopy::FromZeros;

/// The other side, and what reached whom.
struct World {
    peer: Option<u32>,
    requests: Vec<Request>,
    responses: Vec<Response>,
    request_tail: u32,
    request_head: u32,
    response_tail: u32,
    response_head: u32,
    answers: Vec<(u32, i64)>,
    signals: usize,
    doorbells: usize,
    dropped: usize,
}

impl World {
    fn new() -> World {
        World {
            peer: Some(1),
            requests: vec![Request::new_zeroed(); REQUESTS],
            responses: vec![Response::new_zeroed(); RESPONSES],
            request_tail: 0,
            request_head: 0,
            response_tail: 0,
            response_head: 0,
            answers: vec![],
            signals: 0,
            doorbells: 0,
            dropped: 0,
        }
    }

    fn respond(&mut self, response: Response) {
        self.responses[self.response_tail as usize % RESPONSES] = response;
        self.response_tail = self.response_tail.wrapping_add(1);
    }

    fn consume(&mut self) -> Option<Request> {
        (self.request_head != self.request_tail).then(|| {
            self.request_head = self.request_head.wrapping_add(1);
            self.requests[self.request_head.wrapping_sub(1) as usize % REQUESTS]
        })
    }

    fn start(&mut self, slot: u32, generation: u32) {
        self.respond(Response {
            kind: response_kind::START,
            slot,
            generation,
            pid: 100 + slot,
            value: 64,
            ..Response::default()
        });
    }

    fn finish(&mut self, request: &Request, value: i64) {
        let Request { id, slot, generation, .. } = *request;
        self.respond(Response { id, kind: response_kind::RETURN, slot, generation, value, ..Response::default() });
    }
}

impl Channel for World {
    fn peer(&self) -> Option<u32> {
        self.peer
    }
    fn request_head(&self) -> u32 {
        self.request_head
    }
    fn response_tail(&self) -> u32 {
        self.response_tail
    }
    fn response(&self, index: u32) -> Response {
        self.responses[index as usize % RESPONSES]
    }
    fn request(&self, index: u32) -> Request {
        self.requests[index as usize % REQUESTS]
    }
    fn put_request(&mut self, index: u32, request: &Request) {
        self.requests[index as usize % REQUESTS] = *request;
    }
    fn request_tail(&self) -> u32 {
        self.request_tail
    }
    fn set_request_tail(&mut self, tail: u32) {
        self.request_tail = tail;
    }
    fn response_head(&self) -> u32 {
        self.response_head
    }
    fn set_response_head(&mut self, head: u32) {
        self.response_head = head;
    }
    fn doorbell(&mut self) {
        self.doorbells += 1;
    }
    fn answer(&mut self, reply: u32, value: i64) {
        self.answers.push((reply, value));
    }
    fn signal(&mut self) {
        self.signals += 1;
    }
    fn dropped(&mut self) {
        self.dropped += 1;
    }
}

/// The next event, as the client gets it.
fn take(state: &mut State<'_>) -> Option<[u64; EVENT_WORDS]> {
    let event = state.events_after(None).next().copied()?;
    state.acknowledge(Some((event[5] >> 32) as u32));
    Some(event)
}

fn book() -> Box<Book> {
    Box::new(Book::new_zeroed())
}

fn wish(kind: u32, slot: u32, number: u64) -> Wish {
    Wish { kind, slot, generation: 7, scheduling: 0, number, args: [0; 6], cookie: 0xc00 + number }
}

/// Linux is there; slot 3 with generation 7 was started and admitted.
fn running<'a>(book: &'a mut Book, world: &mut World) -> State<'a> {
    let mut state = State::fresh(book, 1000, world);
    state.look(world);
    world.start(3, 7);
    state.look(world);
    assert_eq!(take(&mut state).unwrap()[..3], [EVENT_START, thread_identity(3, 7), 64]);
    state.admit(3, 7, 1 | 90 << 16).unwrap();
    state
}

#[test]
fn calls_that_fail_because_linux_is_silent_are_over() {
    let (mut book, mut world) = (book(), World::new());
    let mut state = running(&mut book, &mut world);
    assert_eq!((state.waits(), state.fail(&mut world)), (false, 0));
    state.call(thread_identity(3, 7), 110, [0; 6], 42, &mut world).unwrap();
    let request = world.consume().unwrap();
    assert_eq!((state.waits(), state.fail(&mut world), state.waits()), (true, 1, false));
    assert_eq!(world.answers, [(42, -EIO)]);
    // Linux comes back and answers: too late.
    let (before, mut response) = (world.dropped, Response::new_zeroed());
    (response.kind, response.id, response.slot, response.generation) = (response_kind::RETURN, request.id, 3, 7);
    world.respond(response);
    state.look(&mut world);
    assert_eq!((world.answers.len(), world.dropped), (1, before + 1));
    state.call(thread_identity(3, 7), 111, [0; 6], 43, &mut world).unwrap();
    assert_eq!(world.consume().unwrap().number, 111);
}

#[test]
fn a_call_goes_out_and_its_result_comes_back() {
    let (mut book, mut world) = (book(), World::new());
    let mut state = running(&mut book, &mut world);
    state.call(thread_identity(3, 7), 110, [1, 2, 3, 4, 5, 6], 42, &mut world).unwrap();
    let request = world.consume().unwrap();
    assert_eq!(
        (request.kind, request.slot, request.generation, request.number, request.args),
        (1, 3, 7, 110, [1, 2, 3, 4, 5, 6])
    );
    assert_eq!((request.policy, request.priority, world.doorbells), (1, 90, 1));
    world.finish(&request, -2);
    state.look(&mut world);
    assert_eq!((world.answers.as_slice(), world.response_head), (&[(42, -2)][..], 2));
    // The same result once more is nobody's.
    world.finish(&request, 0);
    state.look(&mut world);
    assert_eq!((world.answers.len(), world.dropped), (1, 1));
}

#[test]
fn who_was_not_admitted_gets_eio_and_nothing_is_sent() {
    let (mut book, mut world) = (book(), World::new());
    let mut state = running(&mut book, &mut world);
    for identity in [thread_identity(3, 8), thread_identity(4, 7), thread_identity(255, 0), u64::MAX] {
        assert_eq!(state.call(identity, 1, [0; 6], 1, &mut world), Err(EIO));
    }
    assert_eq!(state.call(thread_identity(3, 7), special::CLONE, [0; 6], 1, &mut world), Err(ENOSYS));
    assert!(world.consume().is_none());
    assert_eq!(state.admit(4, 0, 0), Err(ESRCH));
    assert_eq!(state.admit(999, 0, 0), Err(EINVAL));
}

#[test]
fn forged_and_stale_returns_are_dropped() {
    let (mut book, mut world) = (book(), World::new());
    let mut state = running(&mut book, &mut world);
    state.call(thread_identity(3, 7), 110, [0; 6], 42, &mut world).unwrap();
    let good = world.consume().unwrap();
    for bad in [
        Request { id: good.id + 1, ..good },
        Request { id: 0, ..good },
        Request { slot: 4, ..good },
        Request { generation: 8, ..good },
        Request { id: u64::MAX, slot: u32::MAX, ..good },
    ] {
        world.finish(&bad, 1);
    }
    state.look(&mut world);
    assert_eq!((world.answers.len(), world.dropped), (0, 5));
    world.finish(&good, 5);
    state.look(&mut world);
    assert_eq!(world.answers, [(42, 5)]);
}

#[test]
fn a_full_ring_loses_nothing_and_keeps_the_order() {
    let (mut book, mut world) = (book(), World::new());
    let mut state = running(&mut book, &mut world);
    // Linux consumes nothing; EXIT-like requests need no answer, so more of them fit than entries are there.
    for number in 0..REQUESTS as u64 + 100 {
        state.submit(&wish(request_kind::EXIT, 3, number), false, &mut world).unwrap();
    }
    state.call(thread_identity(3, 7), 1, [0; 6], 9, &mut world).unwrap();
    assert_eq!(world.request_tail, REQUESTS as u32);
    let mut seen = vec![];
    for _ in 0..3 {
        while let Some(request) = world.consume() {
            seen.push(request.number);
        }
        state.look(&mut world);
    }
    assert_eq!(seen, (0..REQUESTS as u64 + 100).chain([1]).collect::<Vec<_>>());
}

#[test]
fn too_many_submissions_are_refused_not_lost() {
    let (mut book, mut world) = (book(), World::new());
    let mut state = running(&mut book, &mut world);
    for number in 0..SUBMISSIONS as u64 {
        state.submit(&wish(request_kind::CALL, 3, number), false, &mut world).unwrap();
    }
    assert_eq!(state.submit(&wish(request_kind::CALL, 3, 0), false, &mut world), Err(EAGAIN));
    let first = world.consume().unwrap();
    world.finish(&first, 1);
    state.look(&mut world);
    state.submit(&wish(request_kind::CALL, 3, 0), false, &mut world).unwrap();
    let event = take(&mut state).unwrap();
    assert_eq!((event[0], event[2], event[3], event[7]), (EVENT_RETURN, 1, 0xc00, first.id));
}

#[test]
fn a_clone_makes_the_new_slot_known() {
    let (mut book, mut world) = (book(), World::new());
    let mut state = running(&mut book, &mut world);
    for (new_slot, new_generation, value) in [(5, 2, 321), (3, 9, -EIO), (256, 1, -EIO)] {
        state.submit(&wish(request_kind::CALL, 3, special::CLONE), false, &mut world).unwrap();
        let Request { id, .. } = world.consume().unwrap();
        world.respond(Response {
            id,
            kind: response_kind::RETURN,
            slot: 3,
            generation: 7,
            value: 321,
            new_slot,
            new_generation,
            ..Response::default()
        });
        state.look(&mut world);
        assert_eq!(take(&mut state).unwrap()[2] as i64, value);
    }
    state.admit(5, 2, 0).unwrap();
}

#[test]
fn cancel_reaches_a_call_wherever_it_is() {
    let (mut book, mut world) = (book(), World::new());
    let mut state = running(&mut book, &mut world);
    assert!(state.cancel(3, 7, &mut world).is_err());
    assert!(world.consume().is_none());
    state.call(thread_identity(3, 7), 0, [0; 6], 9, &mut world).unwrap();
    let call = world.consume().unwrap();
    assert_eq!(state.cancel(3, 7, &mut world), Ok(0));
    let cancel = world.consume().unwrap();
    assert_eq!((cancel.kind, cancel.args[0]), (request_kind::CANCEL, call.id));
    world.finish(&call, -EINTR);
    state.look(&mut world);
    assert_eq!(world.answers, [(9, -EINTR)]);
    let event = take(&mut state).unwrap();
    assert_eq!((event[0], event[2] as i64, event[3]), (ipc::protocol::vfs::EVENT_INTERRUPTED, -EINTR, 0));
    // Not on the ring yet: answered here.
    world.request_head = world.request_tail.wrapping_sub(REQUESTS as u32);
    state.call(thread_identity(3, 7), 0, [0; 6], 10, &mut world).unwrap();
    assert_eq!(state.cancel(3, 7, &mut world), Ok(1));
    assert_eq!(world.answers[1], (10, -EINTR));
}

#[test]
fn what_is_gone_or_forgotten_hangs_nobody() {
    let (mut book, mut world) = (book(), World::new());
    let mut state = running(&mut book, &mut world);
    state.call(thread_identity(3, 7), 0, [0; 6], 9, &mut world).unwrap();
    state.submit(&wish(request_kind::UNMAP, 3, 0), false, &mut world).unwrap();
    world.respond(Response { kind: response_kind::GONE, slot: 3, generation: 7, ..Response::default() });
    world.respond(Response { kind: response_kind::GONE, slot: 3, generation: 7, ..Response::default() });
    state.look(&mut world);
    assert_eq!((world.answers.as_slice(), world.dropped), (&[(9, -EIO)][..], 1));
    assert_eq!(take(&mut state).unwrap()[0], EVENT_GONE);
    assert!(state.book.submissions.iter().all(|entry| entry.id == 0));
    // The slot can be given out again.
    world.start(3, 8);
    state.look(&mut world);
    state.admit(3, 8, 0).unwrap();
    state.call(thread_identity(3, 8), 0, [0; 6], 10, &mut world).unwrap();
    let call = std::iter::from_fn(|| world.consume()).last().unwrap();
    state.forget(3, 8, &mut world).unwrap();
    assert_eq!(world.answers[1], (10, -EIO));
    world.finish(&call, 1);
    state.look(&mut world);
    assert_eq!((world.answers.len(), world.dropped), (2, 2));
}

#[test]
fn another_linux_ends_what_the_old_one_had() {
    let (mut book, mut world) = (book(), World::new());
    let mut state = running(&mut book, &mut world);
    state.call(thread_identity(3, 7), 0, [0; 6], 9, &mut world).unwrap();
    let call = world.consume().unwrap();
    world.peer = Some(2);
    state.look(&mut world);
    assert_eq!(world.answers, [(9, -EIO)]);
    assert_eq!(take(&mut state).unwrap()[0], EVENT_RESET);
    world.finish(&call, 1);
    state.look(&mut world);
    assert_eq!(world.dropped, 1);
    assert_eq!(state.call(thread_identity(3, 7), 0, [0; 6], 9, &mut world), Err(EIO));
    world.peer = None;
    state.look(&mut world);
    assert!(!state.attached());
    assert_eq!(state.submit(&wish(request_kind::CALL, 3, 0), false, &mut world), Err(EIO));
}

#[test]
fn a_jump_of_the_index_resets_once() {
    let (mut book, mut world) = (book(), World::new());
    let mut state = running(&mut book, &mut world);
    state.call(thread_identity(3, 7), 0, [0; 6], 9, &mut world).unwrap();
    for jump in [RESPONSES as u32 + 1, u32::MAX / 2, u32::MAX] {
        world.response_tail = world.response_head.wrapping_add(jump);
        state.look(&mut world);
    }
    assert_eq!(world.answers, [(9, -EIO)]);
    assert_eq!(state.events(), 1);
    assert_eq!(take(&mut state).unwrap()[0], EVENT_RESET);
    // It goes on if the other side comes to its senses.
    world.start(6, 1);
    state.look(&mut world);
    assert_eq!(take(&mut state).unwrap()[1], thread_identity(6, 1));
}

#[test]
fn a_full_event_queue_leaves_responses_on_the_ring() {
    let (mut book, mut world) = (book(), World::new());
    let mut state = running(&mut book, &mut world);
    for value in 0..400 {
        world.respond(Response { kind: response_kind::SIGNAL, slot: 3, generation: 7, value, ..Response::default() });
    }
    state.look(&mut world);
    assert_eq!(state.events(), EVENTS - 1);
    let (mut seen, mut newest) = (vec![], 0);
    loop {
        // What has been seen is acknowledged with the next call.
        let reply = client::serve(&mut state, vfs::COLLECT, |_| newest, &mut world);
        let events = reply.words().chunks(EVENT_WORDS);
        if events.len() == 0 {
            break;
        }
        seen.extend(events.map(|event| {
            newest = vfs::NUMBER | event[5] >> 32;
            event[2]
        }));
    }
    assert_eq!(seen, (0..400).collect::<Vec<u64>>());
    assert_eq!(world.dropped, 0);
}

#[test]
fn events_stay_until_they_are_acknowledged() {
    let (mut book, mut world) = (book(), World::new());
    let mut state = running(&mut book, &mut world);
    for value in 0..3 {
        world.respond(Response { kind: response_kind::SIGNAL, slot: 3, generation: 7, value, ..Response::default() });
    }
    state.look(&mut world);
    let collect = |state: &mut State<'_>, world: &mut World, words: [u64; 2]| {
        let reply = client::serve(state, vfs::COLLECT, |i| words[i], world);
        reply.words().chunks(EVENT_WORDS).map(|event| (event[5] >> 32, event[2])).collect::<Vec<_>>()
    };
    let all = collect(&mut state, &mut world, [0, 0]);
    let first = all[0].0;
    assert_eq!(all, [(first, 0), (first + 1, 1), (first + 2, 2)]);
    assert_eq!(collect(&mut state, &mut world, [0, vfs::NUMBER | first]), all[1..]);
    // The client was thrown back to where it had seen nothing.
    assert_eq!(collect(&mut state, &mut world, [0, 0]), all);
    assert_eq!(collect(&mut state, &mut world, [vfs::NUMBER | first, vfs::NUMBER | (first + 1)]), all[2..]);
    assert_eq!(collect(&mut state, &mut world, [vfs::NUMBER | first, vfs::NUMBER | first]), all[1..]);
    // Numbers of events that are long gone, or that never were, are of none.
    assert_eq!(
        collect(&mut state, &mut world, [vfs::NUMBER | (first + 9), vfs::NUMBER | (first + 0xffff_fffb) & 0xffff_ffff]),
        all[1..]
    );
}

#[test]
fn a_request_that_may_have_been_made_is_made_once() {
    let (mut book, mut world) = (book(), World::new());
    let mut state = running(&mut book, &mut world);
    let words = [u64::from(request_kind::CALL), thread_identity(3, 7), 0, 9, 1, 2, 3, 4, 5, 6, 0xabc];
    let again = [words[0] | vfs::SUBMIT_AGAIN, words[1], 0, 9, 1, 2, 3, 4, 5, 6, 0xabc];
    let submit = |state: &mut State<'_>, world: &mut World, words: &[u64]| {
        client::serve(state, vfs::SUBMIT, |i| words.get(i).copied().unwrap_or(0), world).words()[0]
    };
    let id = submit(&mut state, &mut world, &words);
    assert_eq!(submit(&mut state, &mut world, &again), id);
    let request = world.consume().unwrap();
    assert!(world.consume().is_none());
    // Answered, but the client has not acknowledged that.
    world.finish(&request, 0);
    state.look(&mut world);
    assert_eq!(submit(&mut state, &mut world, &again), id);
    take(&mut state).unwrap();
    assert_ne!(submit(&mut state, &mut world, &again), id);
}

#[test]
fn client_calls_are_words() {
    let (mut book, mut world) = (book(), World::new());
    let mut state = running(&mut book, &mut world);
    let identity = thread_identity(3, 7);
    let words = [u64::from(request_kind::CALL), identity, 2 | 5 << 16, 9, 1, 2, 3, 4, 5, 6, 0xabc];
    let reply = client::serve(&mut state, vfs::SUBMIT, |i| words.get(i).copied().unwrap_or(0), &mut world);
    let request = world.consume().unwrap();
    assert_eq!((reply.label, reply.words()), (vfs::OK, &[request.id][..]));
    assert_eq!((request.args, request.policy, request.priority), ([1, 2, 3, 4, 5, 6], 2, 5));
    for (label, word) in [(99, 0), (vfs::SUBMIT, u64::MAX), (vfs::CANCEL, u64::MAX), (vfs::FORGET, 0xffff)] {
        let reply = client::serve(&mut state, label, |_| word, &mut world);
        assert_eq!((reply.label, reply.words()), (vfs::ERROR, &[EINVAL as u64][..]));
    }
    let reply = client::serve(&mut state, vfs::ADMIT, |i| [thread_identity(3, 9), 0][i], &mut world);
    assert_eq!(reply.words(), [ESRCH as u64]);
}

#[test]
fn a_fresh_start_takes_over_the_others_view() {
    let (mut book, mut world) = (book(), World::new());
    (world.request_head, world.response_tail) = (77, u32::MAX);
    let state = State::fresh(&mut book, 1, &mut world);
    assert!(!state.attached());
    assert_eq!((world.request_tail, world.response_head), (77, u32::MAX));
    world.peer = None;
    State::fresh(&mut book, 1, &mut world);
    assert_eq!((world.request_tail, world.response_head), (0, 0));
}

#[test]
fn a_new_instance_goes_on_where_the_old_one_died() {
    let (mut book, mut world) = (book(), World::new());
    let mut state = running(&mut book, &mut world);
    state.call(thread_identity(3, 7), 110, [0; 6], 42, &mut world).unwrap();
    state.submit(&wish(request_kind::CALL, 3, 12), false, &mut world).unwrap();
    // Died after putting an EXIT on the ring, before it left the book; and with one more entered, not yet on the ring.
    let exit = state.enter(&wish(request_kind::EXIT, 3, 13)).unwrap();
    let request = state.request(exit);
    world.put_request(world.request_tail, &request);
    world.request_tail += 1;
    state.enter(&wish(request_kind::UNMAP, 3, 14)).unwrap();

    let mut state = State::recover(&mut book, &mut world);
    assert_eq!(state.kept().collect::<Vec<_>>(), [42]);
    state.look(&mut world);
    let sent: Vec<_> = std::iter::from_fn(|| world.consume()).collect();
    assert_eq!(sent.iter().map(|request| request.number).collect::<Vec<_>>(), [110, 12, 13, 14]);
    // Died between the event of a result and taking the result: the client hears it once.
    world.finish(&sent[1], 5);
    let response = world.response(world.response_head);
    let entry = state.book.submissions[0];
    state.event(EVENT_RETURN, &response, entry.cookie, world.response_head);
    let mut state = State::recover(&mut book, &mut world);
    world.finish(&sent[0], 6);
    state.look(&mut world);
    assert_eq!(world.answers, [(42, 6)]);
    assert_eq!(take(&mut state).unwrap()[2], 5);
    assert_eq!((take(&mut state), world.dropped), (None, 0));
    assert_eq!(VERSION, 4);
}

#[test]
fn a_client_that_repeats_itself_after_a_restart_gets_everything_once() {
    let (mut book, mut world) = (book(), World::new());
    let mut state = running(&mut book, &mut world);
    let (first, second) = (wish(request_kind::CALL, 3, 1), wish(request_kind::CALL, 3, 2));
    let ids = [&first, &second].map(|wish| state.submit(wish, false, &mut world).unwrap());
    // Died before the client heard of either; the first was answered meanwhile.
    let mut state = State::recover(&mut book, &mut world);
    let request = world.consume().unwrap();
    world.finish(&request, 0);
    state.look(&mut world);
    assert_eq!([&first, &second].map(|wish| state.submit(wish, false, &mut world).unwrap()), ids);
    assert_eq!(std::iter::from_fn(|| world.consume()).count(), 1);
    // Died while it handed an event over.
    let before = *state.events_after(None).next().unwrap();
    let mut state = State::recover(&mut book, &mut world);
    assert_eq!(take(&mut state), Some(before));
    assert_eq!(take(&mut state), None);
}

/// A new client ends what the former one had begun, once, and hears of the end of each slot.
#[test]
fn a_new_client_abandons_everything() {
    let mut book = book();
    let mut world = World::new();
    let mut state = State::fresh(&mut book, 1000, &mut world);
    state.look(&mut world);
    for slot in [3, 4] {
        world.start(slot, 7);
    }
    state.look(&mut world);
    state.admit(3, 7, 0).unwrap();
    state.call(thread_identity(3, 7), 1, [0; 6], 55, &mut world).unwrap();
    state.submit(&Wish { generation: 7, ..wish(request_kind::CALL, 4, 1) }, false, &mut world).unwrap();
    while world.consume().is_some() {}
    for again in [false, true] {
        let reply = client::serve(&mut state, vfs::ABANDON, |_| 0, &mut world);
        assert_eq!((reply.label, reply.words()), (vfs::OK, &[2][..]));
        assert_eq!((state.events(), state.kept().count()), (0, 0));
        let mut ended = vec![];
        while let Some(request) = world.consume() {
            assert_eq!((request.kind, request.args[0]), (request_kind::EXIT, 9));
            ended.push((request.slot, request.generation));
        }
        assert_eq!(ended, [(3, 7), (4, 7)], "{again}");
    }
    // The caller that the forwarder had kept is not kept for ever.
    assert_eq!(world.answers, [(55, -EIO)]);
    for slot in [3, 4] {
        world.respond(Response { kind: response_kind::GONE, slot, generation: 7, ..Response::default() });
    }
    state.look(&mut world);
    assert_eq!(state.events(), 2);
    let reply = client::serve(&mut state, vfs::ABANDON, |_| 0, &mut world);
    assert_eq!(reply.words(), &[0]);
    assert!(world.consume().is_none());
}
