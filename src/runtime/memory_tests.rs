//! The memory of a container, shared out among its stores.

use std::sync::Arc;

use futures::FutureExt;
use wasmtime::ResourceLimiter;

use super::memory::{BUFFERS_BYTES, MemoryAccount, OutOfMemory};
use super::store_memory::{Buffer, StoreLimits};

#[test]
fn memory_is_counted_over_stores_and_given_back() {
    let account = Arc::new(MemoryAccount::with_instances_of(0, 100));
    let mut one = StoreLimits::begin(account.clone()).expect("fits");
    let mut two = StoreLimits::begin(account.clone()).expect("fits");
    assert!(one.memory_growing(0, 60, None).expect("fits"));
    let error = two.memory_growing(0, 60, None).expect_err("does not fit");
    assert!(error.downcast_ref::<OutOfMemory>().is_some());
    assert!(!two.memory_growing(0, 30, Some(20)).expect("the module's own maximum"));
    drop(one);
    assert!(two.memory_growing(0, 60, None).expect("fits now"));
    two.memory_grow_failed(wasmtime::Error::msg("ENOMEM")).expect("undone");
    assert_eq!(account.used_bytes(), 0);
    assert_eq!(account.committed_bytes(), 0);
}

#[tokio::test]
async fn an_instance_costs_something_of_its_own() {
    let account = Arc::new(MemoryAccount::with_instances_of(40, 100));
    let one = StoreLimits::begin(account.clone()).expect("fits");
    let mut two = StoreLimits::begin(account.clone()).expect("fits");
    assert!(StoreLimits::begin(account.clone()).is_err(), "no room for a third one");
    assert!(account.admit().now_or_never().is_none());
    assert_eq!(account.used_bytes(), 80);
    two.memory_growing(0, 20, None).expect("fits");
    drop((one, two));
    account.expect(30);
    let one = account.admit().await;
    assert_eq!((one.kept_bytes(), account.used_bytes()), (70, 40));
    drop(one);
    assert_eq!(account.committed_bytes(), 0);
    assert_eq!(account.used_bytes(), 0);
}

#[tokio::test]
async fn instances_wait_for_each_other() {
    let account = Arc::new(MemoryAccount::with_instances_of(0, 100));
    account.expect(40);
    let mut one = account.admit().await;
    let mut two = account.admit().await;
    assert!(account.admit().now_or_never().is_none(), "80 of 100 are kept");
    one.grow_when_there_is_room(40).await.expect("kept for it");
    two.grow_when_there_is_room(50).await.expect("a little more fits");
    assert_eq!(account.used_bytes(), 90);
    let own = one.grow_when_there_is_room(61).await.expect_err("more than the limit alone");
    assert_eq!((own.wanted_bytes, own.limit_bytes), (101, 100));

    let mut growth = Box::pin(one.grow_when_there_is_room(30));
    assert!(growth.as_mut().now_or_never().is_none(), "it waits for the other");
    let mut third = Box::pin(account.admit());
    assert!(third.as_mut().now_or_never().is_none(), "who has begun goes first");
    drop(two);
    growth.await.expect("the other is gone");
    assert!(third.as_mut().now_or_never().is_none(), "70 and 50 do not fit");
    drop(one);
    let third = third.await;
    assert_eq!(third.kept_bytes(), 70, "as much as the last one took");
    drop(third);
    assert_eq!(account.committed_bytes(), 0);
}

#[tokio::test]
async fn when_all_wait_one_gives_way() {
    let account = Arc::new(MemoryAccount::with_instances_of(0, 100));
    let mut stores = [account.admit().await, account.admit().await, account.admit().await];
    for store in &mut stores {
        store.grow_when_there_is_room(30).await.expect("fits");
    }
    let [mut one, mut two, mut three] = stores;
    let mut first = Box::pin(one.grow_when_there_is_room(30));
    let mut second = Box::pin(two.grow_when_there_is_room(30));
    assert!(first.as_mut().now_or_never().is_none());
    assert!(second.as_mut().now_or_never().is_none());
    three.grow_when_there_is_room(30).await.expect_err("the last one");
    assert!(first.as_mut().now_or_never().is_none(), "its memory is about to come");
    drop(three);
    first.await.expect("it came");
    assert!(second.as_mut().now_or_never().is_none());
    drop(one);
    second.await.expect("and again");
}

/// Bytes of buffers beyond what each instance has anyway.
const BEYOND: u64 = BUFFERS_BYTES;

#[test]
fn buffers_count_beyond_what_an_instance_has_anyway() {
    let account = Arc::new(MemoryAccount::with_instances_of(0, 100));
    let one = StoreLimits::begin(account.clone()).expect("fits");
    let mut first = Buffer::none(one.share());
    first.resize(BEYOND).expect("it has them anyway");
    assert_eq!(account.used_bytes(), 0);
    let mut second = Buffer::none(one.share());
    second.resize(60).expect("fits");
    let error = first.resize(BEYOND + 41).expect_err("101 of 100");
    assert_eq!((error.wanted_bytes, error.limit_bytes), (101, 100));
    assert_eq!(account.used_bytes(), 60, "a refusal takes nothing");
    first.resize(BEYOND - 10).expect("less");
    assert_eq!(account.used_bytes(), 50);
    // What is there already is counted, whatever the limit says; then nothing else fits.
    second.count(200);
    assert_eq!((account.used_bytes(), account.committed_bytes()), (190, 190));
    assert!(StoreLimits::begin(account.clone()).expect("nothing").grow(1).is_err());
    drop((first, second));
    assert_eq!((account.used_bytes(), account.committed_bytes()), (0, 0));
}

#[tokio::test]
async fn a_buffer_may_outlive_its_store() {
    let account = Arc::new(MemoryAccount::with_instances_of(0, 100));
    account.expect(40);
    let mut one = account.admit().await;
    one.grow_when_there_is_room(20).await.expect("kept for it");
    let mut buffer = Buffer::none(one.share());
    buffer.resize(BEYOND + 10).expect("within what is kept for it");
    assert_eq!((account.used_bytes(), account.committed_bytes()), (30, 40));
    drop(one);
    assert_eq!((account.used_bytes(), account.committed_bytes()), (10, 10));
    let two = account.admit().await;
    assert_eq!(two.kept_bytes(), 38, "a little less than the guess");
    drop((two, buffer));
    let lent = account.lend(120);
    assert!(account.admit().now_or_never().is_none(), "more is lent than there is");
    drop(lent);
    assert_eq!((account.used_bytes(), account.committed_bytes()), (0, 0));
}

#[tokio::test]
async fn what_an_instance_had_in_buffers_is_expected_of_the_next_one() {
    let account = Arc::new(MemoryAccount::with_instances_of(0, 100));
    let one = account.admit().await;
    let mut buffer = Buffer::none(one.share());
    buffer.resize(BEYOND + 70).expect("fits");
    drop(buffer);
    drop(one);
    assert_eq!(account.admit().await.kept_bytes(), 70);
}
