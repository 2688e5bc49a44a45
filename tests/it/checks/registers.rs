//! Strict serializability of single objects, in almost linear time.
//!
//! Since every write's answer tells its version, and a watch tells the versions of those whose
//! answer was lost, the order of the states of an object is known. What is left to check is that
//! each operation fits into that order at a moment between its call and its answer: the operations
//! are taken in the order of their calls, each is placed as early as it can be, but not before what
//! had returned when it was called. What only tells something about a state (it is absent, it is
//! another one) is placed at the first such state.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use super::history::{Moment, Operation, Outcome, Request, State, States, Version};

/// What is wrong with a history; empty if nothing is.
pub fn check(operations: &[Operation], states: &States) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut by_key: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
    for operation in operations {
        by_key.entry(&operation.key).or_default().push(operation);
    }
    for key in states.keys() {
        by_key.entry(key).or_default();
    }
    for (key, operations) in by_key {
        let empty = Vec::new();
        let states = states.get(key).unwrap_or(&empty);
        match Register::new(states, &operations) {
            Ok(register) => wrong.extend(register.check(operations)),
            Err(why) => wrong.push(format!("{key}: {why}")),
        }
    }
    wrong.extend(check_writes_across(operations));
    wrong
}

/// One object: its states, beginning with its absence, and the call of the write that made each.
struct Register {
    states: Vec<State>,
    made: Vec<Moment>,
}

impl Register {
    /// Attributes every state to the write that made it.
    fn new(states: &[State], operations: &[&Operation]) -> Result<Register, String> {
        let mut all = vec![State { version: 0, content: None }];
        let mut made = vec![0];
        let mut writers: BTreeMap<(Version, Option<u64>), &Operation> = BTreeMap::new();
        for operation in operations {
            // A deletion is known by what it deleted, other writes by what they wrote.
            let key = match operation.request {
                Request::Get => continue,
                Request::Create { content } | Request::Update { content, .. } => (0, Some(content)),
                Request::Delete { expected } => (expected, None),
            };
            let happened = matches!(operation.outcome, Outcome::Done { .. } | Outcome::Unknown);
            if !happened {
                continue;
            }
            let is_sure = operation.outcome != Outcome::Unknown;
            match writers.get(&key) {
                Some(other) if is_sure && other.outcome != Outcome::Unknown => {
                    return Err(format!("{operation:?} and {other:?} did the same"));
                }
                Some(_) if !is_sure => {}
                _ => {
                    writers.insert(key, operation);
                }
            }
        }
        for state in states {
            let before = all[all.len() - 1];
            if state.version <= before.version {
                return Err(format!("{state:?} comes after {before:?}"));
            }
            let key = match state.content {
                Some(content) => (0, Some(content)),
                None => (before.version, None),
            };
            let writer = writers.remove(&key).ok_or_else(|| format!("nobody wrote {state:?}"))?;
            let fits = match writer.request {
                Request::Create { .. } => before.content.is_none(),
                Request::Update { expected, .. } => {
                    before.content.is_some() && before.version == expected
                }
                _ => before.content.is_some(),
            };
            if !fits {
                return Err(format!("{writer:?} made {state:?} of {before:?}"));
            }
            match writer.outcome {
                Outcome::Done { version, .. } if version != state.version => {
                    return Err(format!("{writer:?} made {state:?}"));
                }
                _ => {}
            }
            all.push(*state);
            made.push(writer.called);
        }
        let lost = writers.values().find(|writer| writer.outcome != Outcome::Unknown);
        match lost {
            Some(writer) => Err(format!("lost: {writer:?}")),
            None => Ok(Register { states: all, made }),
        }
    }

    fn check(&self, mut operations: Vec<&Operation>) -> Vec<String> {
        operations.retain(|operation| operation.outcome != Outcome::Unknown);
        operations.sort_by_key(|operation| operation.called);
        let mut wrong = Vec::new();
        // What has returned, with the place that it took; the latest place of those before the call.
        let mut returned: BinaryHeap<Reverse<(Moment, usize)>> = BinaryHeap::new();
        let mut least = 0;
        for operation in operations {
            while let Some(Reverse((moment, place))) = returned.peek().copied()
                && moment < operation.called
            {
                returned.pop();
                least = least.max(place);
            }
            match self.place(operation, least) {
                Some(place) if self.made[place] <= operation.returned => {
                    returned.push(Reverse((operation.returned, place)));
                }
                Some(place) => {
                    wrong.push(format!("{operation:?} saw {:?} before it was", self.states[place]));
                }
                None => {
                    wrong.push(format!("{operation:?} fits nowhere after {:?}", self.states[least]))
                }
            }
        }
        wrong
    }

    /// The first state, from `least` on, that an operation can have seen (a write: have made).
    fn place(&self, operation: &Operation, least: usize) -> Option<usize> {
        let fits = |state: &State| match (&operation.outcome, &operation.request) {
            (Outcome::Done { version, content }, request) => {
                let deleted = matches!(request, Request::Delete { .. });
                let content = (!deleted).then_some(*content);
                (state.version, state.content) == (*version, content)
            }
            (Outcome::Absent, _) => state.content.is_none(),
            // What was deleted meanwhile is not of the version expected either.
            (_, Request::Update { expected, .. } | Request::Delete { expected }) => {
                state.content.is_none() || state.version != *expected
            }
            _ => state.content.is_some(),
        };
        (least..self.states.len()).find(|place| fits(&self.states[*place]))
    }
}

/// Writes of all objects share one counter: what returned before another was called has a lower
/// version.
fn check_writes_across(operations: &[Operation]) -> Vec<String> {
    let mut writes: Vec<(&Operation, Version)> = Vec::new();
    for operation in operations {
        if let (Outcome::Done { version, .. }, false) =
            (&operation.outcome, operation.request == Request::Get)
        {
            writes.push((operation, *version));
        }
    }
    writes.sort_by_key(|(operation, _)| operation.called);
    let mut returned: BinaryHeap<Reverse<(Moment, Version)>> = BinaryHeap::new();
    let (mut least, mut wrong) = (0, Vec::new());
    for (operation, version) in writes {
        while let Some(Reverse((moment, before))) = returned.peek().copied()
            && moment < operation.called
        {
            returned.pop();
            least = least.max(before);
        }
        if version <= least {
            wrong.push(format!("{operation:?} was called after version {least} had returned"));
        }
        returned.push(Reverse((operation.returned, version)));
    }
    wrong
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn operation(
        request: Request,
        called: Moment,
        returned: Moment,
        outcome: Outcome,
    ) -> Operation {
        Operation { key: "k".into(), request, called, returned, outcome }
    }

    fn done(version: Version, content: u64) -> Outcome {
        Outcome::Done { version, content }
    }

    fn verdict(operations: &[Operation], states: &[(Version, Option<u64>)]) -> Vec<String> {
        let states =
            states.iter().map(|(version, content)| State { version: *version, content: *content });
        check(operations, &States::from([("k".into(), states.collect())]))
    }

    const CREATE: Request = Request::Create { content: 1 };
    const UPDATE: Request = Request::Update { content: 2, expected: 5 };
    const DELETE: Request = Request::Delete { expected: 7 };

    /// A create, an update and a deletion, one after another.
    fn plain() -> (Vec<Operation>, Vec<(Version, Option<u64>)>) {
        let operations = vec![
            operation(CREATE, 10, 20, done(5, 1)),
            operation(UPDATE, 30, 40, done(7, 2)),
            operation(DELETE, 50, 60, done(9, 2)),
        ];
        (operations, vec![(5, Some(1)), (7, Some(2)), (9, None)])
    }

    #[test]
    fn what_is_right_passes() {
        let (mut operations, states) = plain();
        let get = |called, returned, outcome| operation(Request::Get, called, returned, outcome);
        operations.extend([
            get(1, 5, Outcome::Absent),
            get(1, 100, done(5, 1)),
            get(15, 35, done(5, 1)),
            get(35, 45, done(7, 2)),
            get(35, 45, done(5, 1)),
            get(55, 58, done(7, 2)),
            get(55, 58, Outcome::Absent),
            get(61, 70, Outcome::Absent),
            operation(Request::Create { content: 3 }, 25, 28, Outcome::Refused),
            operation(Request::Update { content: 4, expected: 5 }, 42, 44, Outcome::Refused),
            operation(Request::Update { content: 6, expected: 7 }, 55, 70, Outcome::Absent),
            operation(Request::Update { content: 8, expected: 7 }, 55, 70, Outcome::Unknown),
        ]);
        assert_eq!(verdict(&operations, &states), [""; 0]);
        // A write without an answer may have happened, and may have an effect later.
        let late = [operation(CREATE, 1, 2, Outcome::Unknown), get(50, 60, done(5, 1))];
        assert_eq!(verdict(&late, &[(5, Some(1))]), [""; 0]);
        assert_eq!(verdict(&late[..1], &[]), [""; 0]);
    }

    #[test]
    fn what_is_wrong_does_not_pass() {
        let get = |called, returned, outcome| operation(Request::Get, called, returned, outcome);
        for (what, extra) in [
            ("a stale read", get(45, 48, done(5, 1))),
            ("a read from the future", get(22, 25, done(7, 2))),
            ("a read of what is gone", get(70, 80, done(7, 2))),
            ("nothing, where something is", get(22, 25, Outcome::Absent)),
            ("a content of another version", get(35, 45, done(7, 1))),
            ("a version that never was", get(35, 45, done(6, 1))),
            (
                "a refusal without a reason",
                operation(Request::Update { content: 4, expected: 7 }, 42, 44, Outcome::Refused),
            ),
            (
                "existing already, when it did not",
                operation(Request::Create { content: 4 }, 1, 5, Outcome::Refused),
            ),
            ("a lost write", operation(Request::Create { content: 4 }, 70, 80, done(11, 4))),
        ] {
            let (mut operations, states) = plain();
            operations.push(extra);
            assert_ne!(verdict(&operations, &states), [""; 0], "{what}");
        }
        // Reads one after another that go back in time, during a write.
        let (mut operations, states) = plain();
        operations[1].returned = 49;
        operations.extend([get(31, 33, done(7, 2)), get(35, 37, done(5, 1))]);
        assert_ne!(verdict(&operations, &states), [""; 0], "back in time");
        // Two updates of one version.
        let (mut operations, mut states) = plain();
        operations.truncate(2);
        states.truncate(2);
        let other = Request::Update { content: 4, expected: 5 };
        operations.push(operation(other, 30, 40, done(8, 4)));
        states.push((8, Some(4)));
        assert_ne!(verdict(&operations, &states), [""; 0], "a lost update");
        // A state that nobody made, versions that go back, an order against time.
        assert_ne!(verdict(&[], &[(5, Some(1))]), [""; 0], "a phantom");
        let (operations, mut states) = plain();
        states.swap(0, 1);
        assert_ne!(verdict(&operations, &states), [""; 0], "back in the order");
        let mut other = operation(Request::Create { content: 9 }, 1, 5, done(6, 9));
        other.key = "other".into();
        let (operations, states) = plain();
        let all: Vec<Operation> = operations.into_iter().chain([other]).collect();
        let states = states.iter().map(|(v, c)| State { version: *v, content: *c }).collect();
        let others = vec![State { version: 6, content: Some(9) }];
        let states = States::from([("k".into(), states), ("other".into(), others)]);
        assert_ne!(check(&all, &states), [""; 0], "writes of two objects against time");
    }

    /// A register that really is one, used by several clients at a time: each operation takes effect
    /// at a random moment between its call and its answer.
    fn simulated(seed: u64) -> (Vec<Operation>, States) {
        let mut random = StdRng::seed_from_u64(seed);
        let mut pending: Vec<(Moment, Moment, Moment)> = (0..200)
            .map(|_| {
                let called = random.random_range(0..10_000);
                let effect = called + random.random_range(1..200);
                (effect, called, effect + random.random_range(1..200))
            })
            .collect();
        pending.sort_unstable();
        let (mut version, mut content): (Version, u64) = (0, 0);
        let mut now: Option<State> = None;
        let (mut operations, mut states) = (Vec::new(), Vec::new());
        for (_, called, returned) in pending {
            version += 1;
            content += 1;
            let guess = match now {
                Some(state) if random.random_bool(0.7) => state.version,
                _ => version.saturating_sub(random.random_range(1..5)),
            };
            let request = match random.random_range(0..5) {
                0 | 1 => Request::Get,
                2 => Request::Create { content },
                3 => Request::Update { content, expected: guess },
                _ => Request::Delete { expected: guess },
            };
            let outcome = match (&request, now) {
                (Request::Get, Some(state)) => done(state.version, state.content.unwrap()),
                (Request::Create { .. }, None) => done(version, content),
                (Request::Create { .. }, Some(_)) => Outcome::Refused,
                (_, None) => Outcome::Absent,
                (Request::Update { expected, .. }, Some(state)) if *expected == state.version => {
                    done(version, content)
                }
                (Request::Delete { expected }, Some(state)) if *expected == state.version => {
                    done(version, state.content.unwrap())
                }
                _ => Outcome::Refused,
            };
            if let (Outcome::Done { .. }, false) = (&outcome, request == Request::Get) {
                let content = (!matches!(request, Request::Delete { .. })).then_some(content);
                let state = State { version, content };
                now = content.map(|_| state);
                states.push(state);
            }
            operations.push(operation(request, called, returned, outcome));
        }
        (operations, States::from([("k".into(), states)]))
    }

    #[test]
    fn a_real_register_passes_and_a_changed_answer_is_found() {
        let (mut changed, mut found) = (0, 0);
        for seed in 0..100 {
            let (mut operations, states) = simulated(seed);
            assert_eq!(check(&operations, &states), [""; 0], "seed {seed}");
            // Some reader is told the state of another moment, far away.
            let mut random = StdRng::seed_from_u64(seed);
            let all = &states["k"];
            let readers: Vec<usize> =
                (0..operations.len()).filter(|n| operations[*n].request == Request::Get).collect();
            let reader = readers[random.random_range(0..readers.len())];
            let other = all[random.random_range(0..all.len())];
            let Some(content) = other.content else { continue };
            operations[reader].outcome = done(other.version, content);
            changed += 1;
            found += usize::from(!check(&operations, &states).is_empty());
        }
        assert!(changed > 50 && found * 10 > changed * 8, "{found} of {changed}");
    }
}
