//! The pace of a key on a hand-made clock.

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use serde_json::json;

use super::*;
use crate::api::Object;
use crate::client::{DeleteOptions, Target};

fn update(name: &str, value: u64) -> Write {
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "resourceVersion": value.to_string()},
        "data": {"number": value.to_string()}});
    Write::Update {
        target: Target::one::<ConfigMap>("default", name),
        object: Object::from_value(object).unwrap(),
    }
}

fn versions_of(name: &str, version: u64) -> Write {
    let Write::Update { target, mut object } = update(name, 0) else { unreachable!() };
    object.set_meta("resourceVersion", version.to_string());
    object.set("lastTransitionTime", json!(version));
    Write::Update { target, object }
}

fn create() -> Write {
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "web-"}});
    Write::Create {
        target: Target::all::<Pod>(Some("default")),
        object: Object::from_value(pod).unwrap(),
    }
}

fn delete(name: &str) -> Write {
    let target = Target::one::<Pod>("default", name);
    Write::Delete { target, options: DeleteOptions::default() }
}

/// Asks for a plan again and again for some time, as often as its pace allows, at most once a
/// millisecond; counts what was let go.
fn run(pace: &Pace, now: &mut Instant, last: Duration, plan: impl Fn(u64) -> Vec<Write>) -> u64 {
    let key = ObjectKey::new("default", "web");
    let end = *now + last;
    let mut performed = 0;
    while *now < end {
        let prints = Prints::of(&plan(performed), 1);
        match pace.check(&key, &prints, *now) {
            Word::Wait(wait) => {
                assert!(wait <= MOST_WAIT && !wait.is_zero());
                *now += wait;
            }
            Word::Go | Word::GoAndTell => {
                pace.wrote(&key, prints, *now);
                performed += 1;
                *now += Duration::from_millis(1);
            }
        }
    }
    performed
}

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn what_is_undone_each_time_is_written_less_and_less() {
    let (pace, mut now) = (Pace::default(), Instant::now());
    let fights: [fn(u64) -> Vec<Write>; 3] = [
        |version| vec![versions_of("a", version)],
        |_| vec![create(), create()],
        |_| vec![delete("a"), create()],
    ];
    for plan in fights {
        let performed = run(&pace, &mut now, HOUR, plan);
        assert!((360..400).contains(&performed), "{performed} in an hour");
        now += FORGET;
    }
}

#[test]
fn statuses_that_flip_in_between_do_not_hide_a_repeat() {
    let (pace, mut now) = (Pace::default(), Instant::now());
    // A pod is created, deleted by somebody, and created: the status follows.
    let performed = run(&pace, &mut now, HOUR, |step| match step % 3 {
        0 => vec![create()],
        more => vec![update("status", more)],
    });
    assert!(performed < 1300, "{performed}");
}

#[test]
fn progress_and_flips_wait_for_tokens_only() {
    let (pace, mut now) = (Pace::default(), Instant::now());
    let minute = Duration::from_secs(60);
    let most = BURST as u64 + 60 * PER_SECOND as u64;
    // A Job's pods one after the other, with their count.
    let performed = run(&pace, &mut now, minute, |step| match step % 2 {
        0 => vec![create()],
        _ => vec![update("status", step)],
    });
    assert!((2000..=2 * most + 2).contains(&performed), "{performed}");
    now += FORGET;
    let performed = run(&pace, &mut now, minute, |step| vec![update("status", step % 2)]);
    assert!((1000..=most + 2).contains(&performed), "{performed}");
    now += FORGET;
    // Many objects of one key are each their own.
    let performed = run(&pace, &mut now, minute, |step| vec![delete(&step.to_string())]);
    assert!(performed > 50_000, "{performed}");
}

#[test]
fn a_new_generation_and_a_quiet_minute_begin_anew() {
    let (pace, mut now) = (Pace::default(), Instant::now());
    let key = ObjectKey::new("default", "web");
    run(&pace, &mut now, Duration::from_secs(60), |_| vec![create()]);
    pace.wrote(&key, Prints::of(&[create()], 1), now);
    let held = |generation, now| {
        matches!(pace.check(&key, &Prints::of(&[create()], generation), now), Word::Wait(_))
    };
    assert!(held(1, now));
    assert!(!held(2, now));
    assert!(!held(1, now + FORGET + MOST_WAIT));
    pace.sweep(now + FORGET + MOST_WAIT);
    assert!(pace.0.lock().is_empty());
}

#[test]
fn somebody_is_told_once_in_a_fight() {
    let (pace, mut now) = (Pace::default(), Instant::now());
    let key = ObjectKey::new("default", "web");
    let mut told = 0;
    for _ in 0..100 {
        let prints = Prints::of(&[create()], 1);
        match pace.check(&key, &prints, now) {
            Word::Wait(wait) => {
                now += wait;
                continue;
            }
            Word::GoAndTell => told += 1,
            Word::Go => {}
        }
        pace.wrote(&key, prints, now);
    }
    assert_eq!(told, 1);
}

#[test]
fn what_is_remembered_of_a_key_is_bounded() {
    let (pace, now) = (Pace::default(), Instant::now());
    let key = ObjectKey::new("default", "web");
    for step in 0..10_000u64 {
        let prints = Prints::of(&[delete(&step.to_string()), update("a", step)], 1);
        pace.wrote(&key, prints, now);
    }
    let tracks = pace.0.lock();
    assert!(tracks[&key].objects.len() <= MOST_OBJECTS);
    assert!(tracks[&key].recent.len() <= MOST_RECENT);
}
