//! A Linux that does what it likes, and a server that dies meanwhile.

use super::*;
use proptest::prelude::*;

/// One step of a Linux that does what it likes, or of the programs meanwhile.
#[derive(Clone, Debug)]
enum Step {
    Respond { id: u64, kind: u32, slot: u32, generation: u32, value: i64 },
    Replay(u8, i64),
    Jump(u32),
    Head(u32),
    Epoch(Option<u32>),
    Call(u8, u8),
    Submit(u8, u8, u8),
    Cancel(u8),
    Forget(u8),
    Admit(u8),
    Collect,
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    let slot = || prop_oneof![0u32..4, Just(255), Just(256), any::<u32>()];
    prop_oneof![
        6 => (prop_oneof![0u64..4, any::<u64>()], 0u32..6, slot(), 0u32..3, any::<i64>())
            .prop_map(|(id, kind, slot, generation, value)| Step::Respond { id, kind, slot, generation, value }),
        6 => (any::<u8>(), any::<i64>()).prop_map(|(which, value)| Step::Replay(which, value)),
        1 => any::<u32>().prop_map(Step::Jump),
        1 => any::<u32>().prop_map(Step::Head),
        1 => proptest::option::of(0u32..3).prop_map(Step::Epoch),
        8 => (0u8..4, 0u8..3).prop_map(|(slot, generation)| Step::Call(slot, generation)),
        4 => (0u8..6, 0u8..4, 0u8..3).prop_map(|(kind, slot, generation)| Step::Submit(kind, slot, generation)),
        1 => (0u8..4).prop_map(Step::Cancel),
        1 => (0u8..4).prop_map(Step::Forget),
        4 => (0u8..4).prop_map(Step::Admit),
        2 => Just(Step::Collect),
        1 => Just(Step::Crash),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever Linux does: no panic, nobody is answered twice or unasked, and what the book counts is there.
    #[test]
    fn a_hostile_linux_reaches_nobody_else(steps in proptest::collection::vec(step(), 1..400)) {
        let (mut book, mut world) = (book(), World::new());
        let mut state = State::fresh(&mut book, 1, &mut world);
        let mut waiting = std::collections::BTreeSet::new();
        let mut next_reply = 0;
        for step in steps {
            let answered = world.answers.len();
            match step {
                Step::Respond { id, kind, slot, generation, value } => {
                    world.respond(Response { id, kind, slot, generation, value, ..Response::default() });
                    state.look(&mut world);
                }
                Step::Replay(which, value) => {
                    let request = world.requests[usize::from(which)];
                    world.finish(&request, value);
                    state.look(&mut world);
                }
                Step::Jump(tail) => { world.response_tail = tail; state.look(&mut world); }
                Step::Head(head) => { world.request_head = head; state.look(&mut world); }
                Step::Epoch(peer) => { world.peer = peer; state.look(&mut world); }
                Step::Call(slot, generation) => {
                    next_reply += 1;
                    if state.call(thread_identity(slot.into(), generation.into()), 1, [0; 6], next_reply, &mut world).is_ok() {
                        waiting.insert(next_reply);
                    }
                }
                Step::Submit(kind, slot, generation) => {
                    let wish = Wish { kind: kind.into(), slot: slot.into(), generation: generation.into(), scheduling: 0, number: 1, args: [0; 6], cookie: 0 };
                    let _ = state.submit(&wish, false, &mut world);
                }
                Step::Cancel(slot) => { let _ = state.cancel(slot.into(), 1, &mut world); }
                Step::Forget(slot) => { let _ = state.forget(slot.into(), 1, &mut world); }
                Step::Admit(slot) => { for generation in 0..3 { let _ = state.admit(slot.into(), generation, 0); } }
                Step::Collect => {
                    let newest = state.events_after(None).last().map(|event| (event[5] >> 32) as u32);
                    state.acknowledge(newest);
                    let _ = client::serve(&mut state, vfs::COLLECT, |_| 0, &mut world);
                }
                Step::Crash => { state = State::recover(&mut book, &mut world); }
            }
            for (reply, _) in &world.answers[answered..] {
                prop_assert!(waiting.remove(reply), "an answer to nobody");
            }
            prop_assert_eq!(state.kept().collect::<std::collections::BTreeSet<_>>(), waiting.clone());
            prop_assert_eq!(state.queued, state.ids().filter(|id| *id > state.newest).count());
            prop_assert!(state.events() <= EVENTS);
        }
    }
}
