//! Every interleaving of a few steps, by model checking. A lost wake-up shows as a deadlock, which the checker reports.

use std::task::Waker;

use loom::future::block_on;
use loom::sync::Arc as Tracked;
use loom::sync::atomic::{AtomicBool as Flag, Ordering::SeqCst};
use loom::thread;

use super::*;
use crate::bridge::event::EventKind;

fn queue(max_events: usize) -> Arc<Queue> {
    Queue::new(&QueueOptions { max_events, ..QueueOptions::default() })
}

fn event(kind: EventKind, tag: u64) -> Event {
    Event::new(kind, 1, tag)
}

fn next(queue: &Arc<Queue>) -> Option<u64> {
    queue.next(Duration::MAX).ok().flatten().map(|event| event.tag)
}

#[test]
fn every_promised_event_is_taken_before_a_closed_queue_is_over() {
    loom::model(|| {
        let queue = queue(4);
        let (one, two) = (queue.promise().unwrap(), queue.promise().unwrap());
        let pusher = thread::spawn(move || {
            assert!(one.finish(event(EventKind::Done, 1)));
            assert!(!one.finish(event(EventKind::Done, 9)));
        });
        let closer = {
            let queue = queue.clone();
            thread::spawn(move || {
                queue.close();
                assert!(two.finish(event(EventKind::Done, 2)));
            })
        };
        let mut tags = vec![next(&queue).unwrap(), next(&queue).unwrap()];
        tags.sort_unstable();
        assert_eq!(tags, [1, 2]);
        assert_eq!(queue.next(Duration::MAX).unwrap_err().code(), Code::Closed);
        pusher.join().unwrap();
        closer.join().unwrap();
    });
}

#[test]
fn giving_a_slot_back_ends_a_closed_queue_for_whoever_waits() {
    loom::model(|| {
        let queue = queue(4);
        let seat = queue.promise().unwrap();
        let owner = thread::spawn(move || drop(seat));
        queue.close();
        assert_eq!(queue.next(Duration::MAX).unwrap_err().code(), Code::Closed);
        owner.join().unwrap();
    });
}

#[test]
fn a_chunk_that_waits_for_room_goes_on_and_stays_before_the_last_event() {
    loom::model(|| {
        let queue = queue(2);
        let seat = queue.promise().unwrap();
        let producer = thread::spawn(move || {
            block_on(seat.push(event(EventKind::Chunk, 1))).unwrap();
            block_on(seat.push(event(EventKind::Chunk, 2))).unwrap();
            assert!(seat.finish(event(EventKind::Done, 3)));
        });
        for tag in 1..=3 {
            assert_eq!(next(&queue), Some(tag));
        }
        producer.join().unwrap();
    });
}

#[test]
fn last_events_never_wait_while_a_chunk_does() {
    loom::model(|| {
        let queue = queue(3);
        let (stream, call) = (queue.promise().unwrap(), queue.promise().unwrap());
        block_on(stream.push(event(EventKind::Chunk, 1))).unwrap();
        let streamer = thread::spawn(move || {
            block_on(stream.push(event(EventKind::Chunk, 2))).unwrap();
            assert!(stream.finish(event(EventKind::Done, 3)));
        });
        // The queue is full of promises: this one must be kept all the same.
        assert!(call.finish(event(EventKind::Done, 4)));
        let mut tags: Vec<u64> = (0..4).map(|_| next(&queue).unwrap()).collect();
        streamer.join().unwrap();
        tags.retain(|tag| *tag != 4);
        assert_eq!(tags, [1, 2, 3]);
    });
}

#[test]
fn a_producer_that_gives_up_passes_its_turn_on() {
    loom::model(|| {
        let queue = queue(3);
        let (first, second) = (queue.promise().unwrap(), queue.promise().unwrap());
        block_on(first.push(event(EventKind::Chunk, 1))).unwrap();
        let quitter = thread::spawn(move || {
            let passed = {
                let mut push = Box::pin(first.push(event(EventKind::Chunk, 2)));
                push.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
            };
            // Its promised slot must not make the room that its turn has to pass on.
            (passed, first)
        });
        let stayer = thread::spawn(move || block_on(second.push(event(EventKind::Chunk, 3))).unwrap());
        assert_eq!(next(&queue), Some(1));
        let got = next(&queue).unwrap();
        let (passed, _first) = quitter.join().unwrap();
        if passed {
            assert_eq!(got + next(&queue).unwrap(), 5);
        } else {
            assert_eq!(got, 3);
        }
        stayer.join().unwrap();
    });
}

#[test]
fn closing_frees_a_producer_that_waits() {
    loom::model(|| {
        let queue = queue(2);
        let seat = queue.promise().unwrap();
        block_on(seat.push(event(EventKind::Chunk, 1))).unwrap();
        let producer = thread::spawn(move || {
            assert_eq!(block_on(seat.push(event(EventKind::Chunk, 2))).unwrap_err().code(), Code::Closed);
            assert!(seat.finish(event(EventKind::Done, 3)));
        });
        queue.close();
        assert_eq!(next(&queue), Some(1));
        assert_eq!(next(&queue), Some(3));
        producer.join().unwrap();
    });
}

#[test]
fn every_one_of_two_sleepers_gets_its_event() {
    loom::model(|| {
        let queue = queue(4);
        let (one, two) = (queue.promise().unwrap(), queue.promise().unwrap());
        let sleeper = {
            let queue = queue.clone();
            thread::spawn(move || next(&queue).unwrap())
        };
        let pusher = thread::spawn(move || {
            assert!(one.finish(event(EventKind::Done, 1)));
            assert!(two.finish(event(EventKind::Done, 2)));
        });
        let mine = next(&queue).unwrap();
        assert_eq!(mine + sleeper.join().unwrap(), 3);
        pusher.join().unwrap();
    });
}

#[test]
fn the_descriptor_is_readable_exactly_while_there_are_events() {
    loom::model(|| {
        let queue = queue(6);
        queue.descriptor().unwrap();
        let descriptor = queue.lock().descriptor.clone().unwrap();
        let (one, two) = (queue.promise().unwrap(), queue.promise().unwrap());
        let pushers = [(one, 1), (two, 2)].map(|(seat, tag)| {
            let queue = queue.clone();
            let descriptor = descriptor.clone();
            thread::spawn(move || {
                assert!(seat.finish(event(EventKind::Done, tag)));
                let state = queue.lock();
                let told = state.bell == Bell::Rung;
                assert_eq!(descriptor.is_readable(), told);
                assert!(told != state.events.is_empty() || state.bell == Bell::Coming);
            })
        });
        let mut sum = 0;
        while sum < 3 {
            descriptor.wait();
            // One at a time: what is left must keep the descriptor readable.
            sum += queue.drain(1).unwrap().iter().map(|event| event.tag).sum::<u64>();
        }
        for pusher in pushers {
            pusher.join().unwrap();
        }
        assert!(!descriptor.is_readable());
    });
}

/// A host loop that sleeps until it is rung.
struct Loop {
    rung: Mutex<bool>,
    bell: Condvar,
}

impl Loop {
    fn new() -> Tracked<Self> {
        Tracked::new(Loop { rung: Mutex::new(false), bell: Condvar::new() })
    }

    fn ring(&self) {
        *self.rung.lock().unwrap() = true;
        self.bell.notify_one();
    }

    fn wait(&self) {
        let mut rung = self.rung.lock().unwrap();
        while !*rung {
            rung = self.bell.wait(rung).unwrap();
        }
        *rung = false;
    }
}

#[test]
fn a_doorbell_that_is_answered_with_one_drain_a_ring_misses_nothing() {
    loom::model(|| {
        let queue = queue(6);
        let host = Loop::new();
        let (one, two) = (queue.promise().unwrap(), queue.promise().unwrap());
        let pusher = thread::spawn(move || {
            assert!(one.finish(event(EventKind::Done, 1)));
            assert!(two.finish(event(EventKind::Done, 2)));
        });
        let bell = host.clone();
        queue.set_doorbell(Some(Arc::new(move || bell.ring()))).unwrap();
        let mut sum = 0;
        while sum < 3 {
            host.wait();
            sum += queue.drain(1).unwrap().iter().map(|event| event.tag).sum::<u64>();
        }
        pusher.join().unwrap();
        queue.close();
    });
}

#[test]
fn no_doorbell_rings_after_close_returned() {
    loom::model(|| {
        let queue = queue(4);
        let (closed, late) = (Tracked::new(Flag::new(false)), Tracked::new(Flag::new(false)));
        let seat = queue.promise().unwrap();
        let flags = (closed.clone(), late.clone());
        let doorbell = move || flags.1.store(flags.0.load(SeqCst), SeqCst);
        queue.set_doorbell(Some(Arc::new(doorbell))).unwrap();
        let pusher = thread::spawn(move || assert!(seat.finish(event(EventKind::Done, 1))));
        queue.close();
        closed.store(true, SeqCst);
        pusher.join().unwrap();
        assert!(!late.load(SeqCst));
        assert_eq!(next(&queue), Some(1));
    });
}
