#![allow(clippy::unwrap_used)]

use std::sync::atomic::AtomicUsize;

use super::*;
use crate::bridge::event::EventKind;

fn queue(max_events: usize, max_bytes: usize) -> Arc<Queue> {
    Queue::new(&QueueOptions { max_events, max_bytes })
}

fn event(kind: EventKind, tag: u64, bytes: usize) -> Event {
    Event { body: vec![0; bytes].into(), ..Event::new(kind, 1, tag) }
}

fn done(tag: u64) -> Event {
    event(EventKind::Done, tag, 0)
}

fn tags(queue: &Arc<Queue>) -> Vec<u64> {
    queue.drain(MOST_AT_ONCE).unwrap().iter().map(|event| event.tag).collect()
}

/// Counts how often a producer is told to go on.
#[derive(Default)]
struct Told(AtomicUsize);

impl std::task::Wake for Told {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Relaxed);
    }
}

fn poll<F: Future + ?Sized>(future: &mut std::pin::Pin<Box<F>>, told: &Arc<Told>) -> Poll<F::Output> {
    let waker = Waker::from(told.clone());
    future.as_mut().poll(&mut Context::from_waker(&waker))
}

#[test]
fn a_last_event_is_never_refused_however_full_the_queue_is() {
    let queue = queue(3, 1 << 10);
    let (one, two) = (queue.promise().unwrap(), queue.promise().unwrap());
    assert_eq!(queue.promise().err().unwrap().code(), Code::QueueFull);
    let mut chunk = Box::pin(one.push(event(EventKind::Chunk, 1, 1 << 10)));
    assert!(poll(&mut chunk, &Arc::default()).is_ready());
    drop(chunk);
    // No byte and no event is free now, but two were promised.
    assert!(one.finish(event(EventKind::Done, 2, 1 << 20)));
    assert!(two.finish(event(EventKind::Done, 3, 1 << 20)));
    assert!(!two.finish(done(4)), "there is one last event");
    assert_eq!(tags(&queue), [1, 2, 3]);
    let _seat = queue.promise().unwrap();
}

#[test]
fn chunks_wait_for_room_in_their_order_and_are_told_when_there_is_some() {
    let queue = queue(3, 1 << 10);
    let (one, two) = (queue.promise().unwrap(), queue.promise().unwrap());
    let (first, second) = (Arc::<Told>::default(), Arc::<Told>::default());
    assert!(poll(&mut Box::pin(one.push(event(EventKind::Chunk, 1, 0))), &first).is_ready());
    let mut waiting = Box::pin(one.push(event(EventKind::Chunk, 2, 0)));
    let mut behind = Box::pin(two.push(event(EventKind::Chunk, 3, 0)));
    assert!(poll(&mut waiting, &first).is_pending());
    assert!(poll(&mut behind, &second).is_pending());
    assert_eq!(tags(&queue), [1]);
    assert_eq!((first.0.load(Relaxed), second.0.load(Relaxed)), (1, 0));
    assert!(poll(&mut behind, &second).is_pending(), "it is not its turn");
    assert!(poll(&mut waiting, &first).is_ready());
    assert_eq!(tags(&queue), [2]);
    assert_eq!(second.0.load(Relaxed), 1);
    assert!(poll(&mut behind, &second).is_ready());
}

#[test]
fn a_queue_is_bounded_in_bytes_and_one_event_over_the_limit_passes_alone() {
    let queue = queue(100, 1 << 10);
    let seat = queue.promise().unwrap();
    let told = Arc::<Told>::default();
    assert!(poll(&mut Box::pin(seat.push(event(EventKind::Chunk, 1, 1000))), &told).is_ready());
    let mut small = Box::pin(seat.push(event(EventKind::Chunk, 2, 100)));
    assert!(poll(&mut small, &told).is_pending());
    assert_eq!(tags(&queue), [1]);
    assert!(poll(&mut small, &told).is_ready());
    drop(small);
    let mut huge = Box::pin(seat.push(event(EventKind::Chunk, 3, 5000)));
    assert!(poll(&mut huge, &told).is_pending());
    assert_eq!(tags(&queue), [2]);
    assert!(poll(&mut huge, &told).is_ready());
    drop(huge);
    assert_eq!(queue.promise().err().unwrap().code(), Code::QueueFull, "over its bytes: nothing new is started");
    assert_eq!(tags(&queue), [3]);
    let _other = queue.promise().unwrap();
}

#[test]
fn a_task_is_delivered_only_with_room_for_its_cancellation() {
    let queue = queue(4, 1 << 10);
    let told = Arc::<Told>::default();
    let _call = queue.promise().unwrap();
    let Poll::Ready(Ok(first)) = poll(&mut Box::pin(queue.deliver(event(EventKind::Task, 1, 0))), &told) else {
        panic!("there was room for two")
    };
    let mut second = Box::pin(queue.deliver(event(EventKind::Task, 2, 0)));
    assert!(poll(&mut second, &told).is_pending());
    assert_eq!(tags(&queue), [1]);
    let Poll::Ready(Ok(second)) = poll(&mut second, &told) else { panic!("there is room") };
    assert!(first.finish(event(EventKind::TaskCancel, 1, 0)));
    assert_eq!(tags(&queue), [2, 1]);
    // An answered task gives its slot back.
    let mut third = Box::pin(queue.deliver(event(EventKind::Task, 3, 0)));
    drop(second);
    assert!(poll(&mut third, &told).is_ready());
}

#[test]
fn a_drain_is_capped_and_what_is_left_rings_again() {
    let queue = queue(1000, 1 << 10);
    let rings = Arc::new(AtomicUsize::new(0));
    let counter = rings.clone();
    for tag in 0..600 {
        assert!(queue.promise().unwrap().finish(done(tag)));
    }
    queue.set_doorbell(Some(Arc::new(move || _ = counter.fetch_add(1, Relaxed)))).unwrap();
    assert_eq!(rings.load(Relaxed), 1, "a new doorbell rings for what is there");
    assert_eq!(queue.drain(10_000).unwrap().len(), MOST_AT_ONCE);
    assert_eq!(queue.drain(10_000).unwrap().len(), MOST_AT_ONCE);
    assert_eq!(rings.load(Relaxed), 3);
    assert_eq!(queue.drain(10_000).unwrap().len(), 600 - 2 * MOST_AT_ONCE);
    assert_eq!(rings.load(Relaxed), 3, "nothing is left");
    assert!(queue.promise().unwrap().finish(done(0)));
    assert!(queue.promise().unwrap().finish(done(1)));
    assert_eq!(rings.load(Relaxed), 4, "one ring until it is answered");
}

#[test]
fn a_doorbell_that_panics_costs_no_event() {
    let queue = queue(10, 1 << 10);
    queue.set_doorbell(Some(Arc::new(|| panic!("doorbell")))).unwrap();
    assert!(queue.promise().unwrap().finish(done(7)));
    assert_eq!(tags(&queue), [7]);
}

#[test]
fn a_closed_queue_gives_what_was_promised_and_then_says_so() {
    let queue = queue(10, 1 << 10);
    let (one, two) = (queue.promise().unwrap(), queue.promise().unwrap());
    let rings = Arc::new(AtomicUsize::new(0));
    let counter = rings.clone();
    queue.set_doorbell(Some(Arc::new(move || _ = counter.fetch_add(1, Relaxed)))).unwrap();
    queue.close();
    assert_eq!(queue.promise().err().unwrap().code(), Code::Closed);
    assert_eq!(queue.set_doorbell(Some(Arc::new(|| ()))).unwrap_err().code(), Code::Closed);
    assert!(one.finish(done(1)));
    assert_eq!(queue.next(Duration::ZERO).unwrap().unwrap().tag, 1);
    assert!(queue.next(Duration::ZERO).unwrap().is_none(), "one is still promised");
    drop(two);
    assert_eq!(queue.next(Duration::ZERO).unwrap_err().code(), Code::Closed);
    assert_eq!(queue.drain(1).unwrap_err().code(), Code::Closed);
    assert_eq!(rings.load(Relaxed), 0, "nothing rang after close");
}

#[test]
fn next_waits_no_longer_than_asked_and_wakes_for_an_event() {
    let queue = queue(10, 1 << 10);
    let begun = Instant::now();
    assert!(queue.next(Duration::from_millis(20)).unwrap().is_none());
    assert!(begun.elapsed() >= Duration::from_millis(20));
    let seat = queue.promise().unwrap();
    std::thread::scope(|scope| {
        let sleeper = scope.spawn(|| queue.next(Duration::MAX).unwrap().unwrap().tag);
        assert!(seat.finish(done(5)));
        assert_eq!(sleeper.join().unwrap(), 5);
    });
}

#[tokio::test]
async fn a_host_is_woken_once_for_what_a_turn_brings_and_at_once_for_the_last_event_it_waits_for() {
    let queue = queue(10, 1 << 10);
    let rings = Arc::new(AtomicUsize::new(0));
    let counter = rings.clone();
    queue.set_doorbell(Some(Arc::new(move || _ = counter.fetch_add(1, Relaxed)))).unwrap();
    let seats = [queue.promise().unwrap(), queue.promise().unwrap(), queue.promise().unwrap()];
    let [one, two, three] = seats.map(|seat| tokio::spawn(async move { assert!(seat.finish(done(1))) }));
    let (_, _, _) = (one.await.unwrap(), two.await.unwrap(), three.await.unwrap());
    while rings.load(Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!((rings.load(Relaxed), tags(&queue).len()), (1, 3));
    let only = queue.promise().unwrap();
    tokio::spawn(async move { assert!(only.finish(done(4))) }).await.unwrap();
    assert_eq!((rings.load(Relaxed), tags(&queue)), (2, vec![4]));
}

#[test]
fn a_host_is_woken_even_when_the_turn_never_ends() {
    let queue = queue(10, 1 << 10);
    let (one, two) = (queue.promise().unwrap(), queue.promise().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    drop(runtime.block_on(runtime.spawn(async move { assert!(one.finish(done(1))) })));
    assert!(queue.lock().bell == Bell::Coming);
    std::thread::scope(|scope| {
        let sleeper = scope.spawn(|| queue.next(Duration::MAX).unwrap().unwrap().tag);
        drop(runtime);
        assert_eq!(sleeper.join().unwrap(), 1);
    });
    drop(two);
}

/// What an event loop would see.
#[cfg(unix)]
pub(in crate::bridge) fn is_readable(queue: &Queue) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    let state = queue.lock();
    let descriptor = state.descriptor.as_ref().expect("a descriptor was asked for");
    poll(&mut [PollFd::new(descriptor, PollFlags::IN)], Some(&Timespec::default())).unwrap() == 1
}

#[cfg(unix)]
#[test]
fn the_descriptor_is_readable_exactly_while_there_are_events() {
    let queue = queue(10, 1 << 10);
    assert!(queue.promise().unwrap().finish(done(1)));
    let number = queue.descriptor().unwrap();
    assert_eq!(queue.descriptor().unwrap(), number, "one descriptor, however often it is asked for");
    assert!(is_readable(&queue), "made late, for an event that was there");
    assert!(queue.promise().unwrap().finish(done(2)));
    queue.drain(1).unwrap();
    assert!(is_readable(&queue), "one is left");
    assert!(queue.next(Duration::ZERO).unwrap().is_some());
    assert!(!is_readable(&queue));
    let seat = queue.promise().unwrap();
    queue.close();
    assert!(seat.finish(done(3)));
    assert!(is_readable(&queue), "closed, and not yet empty");
    queue.drain(1).unwrap();
    assert!(!is_readable(&queue));
}
